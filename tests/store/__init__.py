"""What is in Redis, on fakeredis and on real servers. Nothing here sends HTTP to the service."""
