"""The demo services as applications that the gateway takes as upstreams in the same process."""

from __future__ import annotations

from examples import shop, stream, users

shop_1 = shop.create_app("shop-1")
shop_2 = shop.create_app("shop-2")
users_1 = users.create_app("users")
stream_1 = stream.create_app("stream")
