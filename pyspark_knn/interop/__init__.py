"""Conversion from and to fitted scikit-learn estimators."""
