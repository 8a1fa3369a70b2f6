"""Training, export and evaluation of SG-CLDFF (arXiv:2510.17278) for Leukodiff."""
