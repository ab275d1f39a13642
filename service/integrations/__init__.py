"""TODO service/integrations."""
