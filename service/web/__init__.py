"""Everything HTTP: who asks, and how it is answered. Nothing here knows a Redis key."""
