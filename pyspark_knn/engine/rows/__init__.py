"""The form that rows have between Spark and Python."""
