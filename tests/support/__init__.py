"""What tests share. Nothing here knows how the package does its work."""
