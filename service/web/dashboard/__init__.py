"""The operators' pages: views, login, charts, templates and static files."""
