"""The dashboard and pages of other origins in Chromium."""
