"""The examples behind a balancer that speaks the PROXY protocol: what is to be added for that, on a second port.

examples/README.md has the same lines. The protocol: https://www.haproxy.org/download/3.4/doc/proxy-protocol.txt
"""

import copy
import re

import yaml

from tests.proxies.versions import Proxy

LINES = {
    "nginx": "listen 127.0.0.1:8000 proxy_protocol; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;",
    "caddy": "listener_wrappers { proxy_protocol { allow 127.0.0.1/32 } }",
    "haproxy": "bind 127.0.0.1:8000 accept-proxy",
    "envoy": "listener_filters: [{name: envoy.filters.listener.proxy_protocol, typed_config: "
    '{"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]',
    "traefik": "proxyProtocol: {trustedIPs: [127.0.0.1/32]}",
}
"""Proxy → what its example needs where the balancer is on 127.0.0.1; examples/README.md names it."""
PREFACE = b"PROXY TCP4 203.0.113.9 127.0.0.1 40000 8000\r\n"
"""How a balancer begins a connection: the client is 203.0.113.9."""


def behind_a_balancer(proxy: Proxy, text: str, port: int) -> str:
    """Return one file of the proxy's example, which also listens for a balancer, on `port`."""
    line = LINES[proxy.name].replace("8000", str(port))
    if proxy.name == "nginx":
        return re.sub(r"listen 127[^;]+;", rf"\g<0>\n        {line}", text)
    if proxy.name == "haproxy":
        return re.sub(r"frontend api\n", rf"\g<0>    {line}\n", text)
    if proxy.name == "traefik":
        entry = f"  balanced:\n    address: 127.0.0.1:{port}\n    asDefault: true\n    {line}\n"
        return text.replace("\nproviders:", f"{entry}\nproviders:")
    if proxy.name == "caddy":
        if proxy.version == "2.6":  # it does not know the protocol
            return text
        options = f"servers 127.0.0.1:{port} {{\n{line}\n}}".replace("{ ", "{\n").replace(" }", "\n}")
        text = text.replace("admin off", f"admin off\n{options}")
        return re.sub(r"(?m)^http://:\d+", rf"\g<0>, http://:{port}", text)
    content = yaml.safe_load(text)
    [listener] = content["static_resources"]["listeners"]
    balanced = copy.deepcopy(listener) | yaml.safe_load(line)
    balanced["address"]["socket_address"]["port_value"] = port
    content["static_resources"]["listeners"].append(balanced)
    return yaml.safe_dump(content)
