"""The former name of `service.integrations.aiohttp`, kept for applications that import it."""

from service.integrations.aiohttp import *  # noqa: F403  # the list of names is there
from service.integrations.aiohttp import __all__ as __all__
