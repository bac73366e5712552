"""The command lines; nothing below them knows their options."""
