"""What runs on a graphics card in a quarter of an hour."""
