"""Files of audio and of codes to arrays, and back."""
