"""What connects one process of a cluster with the store and the bus, to be cut at will."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from longshore_embedded.member import Member
from tests.faults.proxy import Proxy

STORES = ("LONGSHORE_STORE", "LONGSHORE_REDIS")


class Cable:
    """The proxies between a process and the stores; Ray and its clients go beside them."""

    def __init__(self, proxies: list[Proxy]) -> None:
        self._proxies = proxies

    def cut(self) -> None:
        """Nothing passes, and nobody is told: as when a switch dies."""
        for proxy in self._proxies:
            proxy.pause()

    def mend(self) -> None:
        """Connections of before are gone; new ones pass."""
        for proxy in self._proxies:
            proxy.resume()
            proxy.reset()


async def lay(stack: AsyncExitStack, member: Member) -> Cable:
    """Makes a cable that the member uses from its next start on, until the stack is closed."""
    proxies = []
    for name in STORES:
        url = member.env[name]
        address = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
        proxy = await stack.enter_async_context(Proxy(address))
        member.env[name] = url.replace(address, proxy.target)
        proxies.append(proxy)
    return Cable(proxies)


@asynccontextmanager
async def cabled(member: Member) -> AsyncIterator[Cable]:
    """The member, started anew with a cable in between; without it again afterwards."""
    direct = {name: member.env[name] for name in STORES}
    async with AsyncExitStack() as stack:
        cable = await lay(stack, member)
        try:
            await restart(member)
            yield cable
        finally:
            member.env.update(direct)
            await restart(member)


async def restart(member: Member) -> None:
    """Ends it in order and starts it again."""
    await member.down()
    await member.start()
