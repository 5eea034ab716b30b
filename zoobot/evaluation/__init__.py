"""Compare predictions with labels: scores, figures, and a report page."""
