"""What rows are on their way from Spark to Python and back."""
