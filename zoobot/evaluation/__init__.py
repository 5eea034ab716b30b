"""How good predictions are: scores, figures and a page."""
