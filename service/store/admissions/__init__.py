"""TODO service/store/admissions."""
