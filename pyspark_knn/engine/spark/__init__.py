"""What Spark lacks, or does differently from version to version."""
