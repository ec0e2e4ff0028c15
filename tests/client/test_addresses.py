"""Where `longshore up` may listen."""

from __future__ import annotations

import pytest

from longshore.cli.addresses import UnusableAddress, check_address


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.9.1:7233", "[::1]:7233", "localhost:1"])
def test_loopback_needs_no_permission(listen: str) -> None:
    check_address(listen, insecure=False)


@pytest.mark.parametrize("listen", ["0.0.0.0:7233", "[::]:7233", "10.1.2.3:7233", "a.example:1"])
def test_what_others_can_reach_does(listen: str) -> None:
    check_address(listen, insecure=True)
    with pytest.raises(UnusableAddress, match="--insecure"):
        check_address(listen, insecure=False)


@pytest.mark.parametrize("listen", ["127.0.0.1", "7233", "127.0.0.1:http", "localhost:65536", ""])
def test_what_is_no_address_is_named(listen: str) -> None:
    with pytest.raises(UnusableAddress, match="is not HOST:PORT"):
        check_address(listen, insecure=True)
