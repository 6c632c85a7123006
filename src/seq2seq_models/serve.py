"""The command `seq2seq-models serve`: a web page of this machine for summaries and a chat.

Gradio, which draws the page, loads when the command runs.
"""

from __future__ import annotations

import argparse
import socket
import webbrowser
from contextlib import closing
from typing import Any

from .bundled import DEMO_CHECKPOINTS
from .checkpoint_commands import add_model_options, model_options
from .errors import InputError, MissingFrameworkError

OWN_HOST_ONLY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""What the browser is told to load: nothing from another host, whatever the page may ask for."""


def add_serve_command(commands: Any) -> None:
    """Adds `serve` to the commands of the parser."""
    command = commands.add_parser(
        "serve",
        help="summaries and chat on a local web page",
        description="Serves a page for summaries and a chat, on this machine alone unless --host says otherwise.",
    )
    group = command.add_argument_group("page")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    group.add_argument("--port", type=int, default=7860, help="port to listen on; 0 is any free one (default: 7860)")
    group.add_argument("--open", action=argparse.BooleanOptionalAction, default=False, help="open it in a browser")
    group.add_argument(
        "--max-characters", type=int, default=50_000, metavar="N", help="longest text that is taken (default: 50000)"
    )
    group.add_argument(
        "--concurrency", type=int, default=8, metavar="N",
        help="requests that each model takes at a time; it works on one, the others wait (default: 8)",
    )  # fmt: skip
    add_model_options(command, "summarization")
    group = command.add_argument_group("model of the chat")
    group.add_argument(
        "--chat-model", metavar="REPO", help=f"as --model (default: the bundled {DEMO_CHECKPOINTS['chat']})"
    )
    group.add_argument("--chat-revision", metavar="REVISION", help="as --revision")
    command.set_defaults(run=serve)


def serve(options: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    from .core.seed import set_seed
    from .page import Line, Page
    from .pipelines import pipeline

    for name in ("max_characters", "concurrency"):
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise InputError(f"`--{option}` must be at least 1, got {getattr(options, name)} (serve). Leave it out.")
    if not 0 <= options.port < 2**16:
        raise InputError(f"`--port` must be from 0 to 65535, got {options.port} (serve). 0 is any free one.")
    _require_gradio()
    places = model_options(options)
    with closing(_listen(options.host, options.port)) as listening:
        summarizer = pipeline("summarization", model=options.model, revision=options.revision, **places)
        bot = pipeline("chat", model=options.chat_model, revision=options.chat_revision, **places)
        if options.seed is not None:
            set_seed(options.seed)
        with Line(options.concurrency) as reading, Line(options.concurrency) as talking:
            app = Page(summarizer, bot, reading, talking, options.max_characters).app()
            host, port = listening.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"Serving on {address}. Ctrl-C ends it.", flush=True)
            if options.open:
                webbrowser.open(address)
            _run(_own_host_only(app), listening)


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise MissingFrameworkError("serve needs gradio. Install it: pip install 'seq2seq-models[serve]'") from None


def _listen(host: str, port: int) -> socket.socket:
    """A socket that browsers can knock at already, though nobody answers yet."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0].lower()
        raise InputError(
            f"`--host` and `--port` must be free to listen on, got {host} and {port}: {reason} (serve). "
            "Name another port; 0 is any free one."
        ) from None


def _run(app: Any, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _own_host_only(app: Any) -> Any:
    """The application, whose pages a browser keeps from loading anything from elsewhere."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", OWN_HOST_ONLY)]
            await send(message)

        await app(scope, receive, send_guarded)

    return guarded
