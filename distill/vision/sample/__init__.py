"""A part of Fashion-MNIST, see LICENSE, and the script that packs it."""
