"""The former name of `service.integrations.aiohttp`, kept for applications that import it."""

from service.integrations.aiohttp import UserContext, capability, logout, session_middleware, status, user_of

__all__ = ["UserContext", "capability", "logout", "session_middleware", "status", "user_of"]
