"""TODO service/store/sessions."""
