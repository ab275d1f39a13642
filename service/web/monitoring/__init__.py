"""What operators monitor: health, metrics, and what the log leaves out."""
