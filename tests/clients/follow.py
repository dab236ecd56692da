"""follow.py CLIENT URL: what `follow.mjs` is, for clients in Python. Runs in an environment of its own."""

import json
import sys
import time

PAUSE = 0.2


def write(**line: object) -> None:
    print(json.dumps(line), flush=True)


def httpx_sse(url: str) -> None:
    """As its documentation reconnects, with the pause that the server asked for."""
    import httpx
    from httpx_sse import connect_sse  # type: ignore[import-not-found]

    last, pause = "", PAUSE
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with httpx.Client() as client, connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code == 204:
                    return write(end="204")
                for event in source.iter_sse():
                    last, pause = event.id or last, (event.retry or pause * 1000) / 1000
                    write(name=event.event, data=event.data, id=event.id)
        except httpx.TransportError:
            pass
        time.sleep(pause)


def requests_sse(url: str) -> None:
    from requests_sse import EventSource  # type: ignore[import-not-found]

    with EventSource(url, timeout=30) as source:
        for event in source:
            write(name=event.type, data=event.data, id=event.last_event_id)


def sseclient_py(url: str) -> None:
    """By hand: it does not reconnect."""
    import requests
    import sseclient  # type: ignore[import-not-found]

    last = ""
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=30)
            if response.status_code == 204:
                return write(end="204")
            for event in sseclient.SSEClient(response).events():
                last = event.id or last
                write(name=event.event, data=event.data, id=event.id)
        except requests.RequestException:
            pass
        time.sleep(PAUSE)


if __name__ == "__main__":
    clients = {"httpx_sse": httpx_sse, "requests_sse": requests_sse, "sseclient_py": sseclient_py}
    try:
        clients[sys.argv[1]](sys.argv[2])
    except Exception as error:  # noqa: BLE001  # whatever ends a client is what is to be seen
        write(end=repr(error))
