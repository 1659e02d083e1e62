"""The routes of the label server, and the loop that serves them. The work is done by the desk; here it is JSON.

GET  /                  the page; with ?as=NAME[&token=T] a cookie, and the way to the page without them
GET  /static/NAME       its scripts and styles
GET  /results           the result of a comparison, as a page
GET  /api/session       who one is, guidelines, tags, reasons to skip, progress
GET  /api/next          items to judge
POST /api/votes         answers; acknowledged when they are on the disk
POST /api/undo          takes one's own answer back
GET  /api/history       one's own answers, the newest first
GET  /api/result        the figures of a comparison, for the owner
POST /api/log           feedback on a deployed model, where that is switched on
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from palate.collect.judgements import REASONS, Edited, Item, Written
from palate.collect.web.queue import MOST_VOTES, Desk
from palate.collect.web.rendering import rendered
from palate.collect.web.security import ELSEWHERE, Access, Refusal, guarded, let_go_of_waiting
from palate.errors import DataError, StoreError, UsageError

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

Experiment = Literal["label", "compare"]


@dataclass(frozen=True)
class Showing:
    """What every rater is told besides the items: guidelines in Markdown, reason tags, and what it is for."""

    guideline: str = ""
    tags: tuple[str, ...] = ()
    experiment: Experiment = "label"
    log: bool = False


def application(desk: Desk, access: Access, showing: Showing, hosts: Iterable[str]) -> ASGIApp:
    """The whole server as one ASGI application, behind its guard."""
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}
    routes = [
        Route("/", functools.partial(_page, files, access)),
        Route("/results", functools.partial(_file, files, "results.html")),
        Route("/static/{name}", functools.partial(_static, files)),
        Route("/api/session", functools.partial(_session, desk, access, showing)),
        Route("/api/next", functools.partial(_next, desk, access)),
        Route("/api/votes", functools.partial(_votes, desk, access), methods=["POST"]),
        Route("/api/undo", functools.partial(_undo, desk, access), methods=["POST"]),
        Route("/api/history", functools.partial(_history, desk, access)),
        Route("/api/result", functools.partial(_result, desk, access, showing)),
        Route("/api/log", functools.partial(_log, desk, access, showing), methods=["POST"]),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http_error,
            UsageError: _wrong,
            StoreError: _disk_said_no,
            Exception: _our_fault,
        },
    )
    return guarded(inner, hosts)


# ---- the page


async def _page(files: Mapping[str, Path], access: Access, request: Request) -> Response:
    name = request.query_params.get("as")
    if name is None:
        return await _file(files, "index.html", request)
    if access.open and request.headers.get("sec-fetch-site") in ELSEWHERE:
        raise Refusal(403, "Another site's page sent you here under a name. Open the link that was printed instead.")
    if not access.admits(name, request.query_params.get("token", "")):
        raise Refusal(
            403,
            "This link's name and token do not belong together, or nobody of that name is asked here. Open the link as "
            "it was given to you, or ask for a new one.",
        )
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        access.cookie_name, access.cookie(name), httponly=True, samesite="strict", path="/", max_age=30 * 24 * 3600
    )
    return answer


async def _static(files: Mapping[str, Path], request: Request) -> Response:
    return await _file(files, request.path_params["name"], request)


async def _file(files: Mapping[str, Path], name: str, request: Request) -> Response:
    path = files.get(name)
    if path is None:
        raise Refusal(404, "There is no such file. Open the page at /.")
    return Response(await run_in_threadpool(path.read_bytes), media_type=_TYPES[path.suffix])


# ---- the rater's work


async def _session(desk: Desk, access: Access, showing: Showing, request: Request) -> Response:
    rater = _rater(access, request)

    def work() -> dict[str, Any]:
        desk.welcome(rater)
        return {
            "rater": rater,
            "store": desk.name,
            "owner": rater == access.owner,
            "title": {"label": "Feedback", "compare": "Blind comparison"}[showing.experiment],
            "guideline": {"version": desk.guideline, "html": rendered(showing.guideline)},
            "tags": list(showing.tags),
            "reasons": list(REASONS),
            "experiment": showing.experiment,
            "missing": desk.missing(),
            **desk.progress(rater),
        }

    return await _answered(work)


async def _next(desk: Desk, access: Access, request: Request) -> Response:
    rater = _rater(access, request)
    _same(desk, request.query_params.get("store"))
    count = _count(request, "count", 3)
    have = [item for item in request.query_params.get("have", "").split(",") if item]

    def work() -> dict[str, Any]:
        items = desk.next(rater, count, have)
        shown = [_shown(desk, rater, item) for item in items]
        return {"items": shown, "guideline": desk.guideline, **desk.progress(rater)}

    return await _answered(work)


async def _votes(desk: Desk, access: Access, request: Request) -> Response:
    rater = _rater(access, request)
    votes = _own(await _posted(request), rater, desk).get("votes")
    if not isinstance(votes, list) or len(votes) > MOST_VOTES:
        raise DataError(f"'votes' must be a list of at most {MOST_VOTES}. Send some at a time.")

    def work() -> dict[str, Any]:
        stored, refused = [], []
        for vote in votes:
            try:
                stored.append(desk.record(rater, vote))
            except DataError as error:
                refused.append({"id": vote.get("id") if isinstance(vote, dict) else None, "reason": str(error)})
        return {"stored": stored, "refused": refused, **desk.progress(rater)}

    return await _answered(work)


async def _undo(desk: Desk, access: Access, request: Request) -> Response:
    rater = _rater(access, request)
    name = _own(await _posted(request), rater, desk).get("id")

    def work() -> dict[str, Any]:
        item = desk.undo(rater, name)
        return {"item": _shown(desk, rater, item), "draft": _draft(desk, str(name)), **desk.progress(rater)}

    return await _answered(work)


async def _history(desk: Desk, access: Access, request: Request) -> Response:
    rater = _rater(access, request)
    _same(desk, request.query_params.get("store"))
    limit = _count(request, "limit", 200)
    return await _answered(
        lambda: {"judgements": [{"id": name, "item": item} for name, item in desk.history(rater, limit)]}
    )


def _shown(desk: Desk, rater: str, item: Item) -> dict[str, Any]:
    """An item as the page may see it: no origin, slice, expected answer or other column of its row."""
    shown = {
        "id": item.id,
        "mode": item.mode,
        "messages": [
            {"role": turn.role, "html": rendered(turn.content), "text": turn.content} for turn in item.prompt.messages
        ],
        "places": [
            {"html": rendered(item.candidates[index].text), "text": item.candidates[index].text}
            for index in desk.shown(rater, item)
        ],
    }
    if item.mode == "rating":
        shown["attributes"] = item.prompt.fields.get("attributes") or ["quality"]
    return shown


def _draft(desk: Desk, name: str) -> dict[str, Any]:
    """What a rater had written when they took a judgement back, so that nobody types it twice."""
    judgement = desk.store.judgement(name)
    assert judgement is not None
    draft: dict[str, Any] = {"tags": list(judgement.tags), "note": judgement.note}
    if isinstance(judgement.answer, Written | Edited):
        draft["text"] = judgement.answer.text
    if isinstance(judgement.answer, Edited):
        draft["of"] = judgement.shown.index(judgement.answer.of)
    return draft


# ---- the owner's


async def _result(desk: Desk, access: Access, showing: Showing, request: Request) -> Response:
    if _rater(access, request) != access.owner:
        raise Refusal(403, "Only the owner sees the result, so that raters stay blind. Ask them.")
    if showing.experiment != "compare":
        raise Refusal(404, "Nothing is compared here. Start `palate label --compare A.jsonl B.jsonl`.")

    def work() -> dict[str, Any]:
        from palate.collect.quality import comparison, of_people

        return asdict(comparison(desk.store.items(), of_people(desk.store.judgements(), desk.store.raters())))

    return await _answered(work)


async def _log(desk: Desk, access: Access, showing: Showing, request: Request) -> Response:
    if not showing.log:
        raise Refusal(404, "This server takes no log. Start it with --log.")
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not access.admits_log(token):
        raise Refusal(
            401, "The log's token is wrong. Send `Authorization: Bearer TOKEN` with the one that was printed."
        )
    thumb = await _posted(request)
    return await _answered(lambda: {"stored": desk.log(thumb)})


# ---- requests and answers


def _rater(access: Access, request: Request) -> str:
    name = access.name_of(request.cookies.get(access.cookie_name, ""))
    if name is not None:
        return name
    if access.open:
        return access.owner
    raise Refusal(401, "Nobody knows who you are. Open the link that was given to you; it holds your name and token.")


def _own(given: dict[str, Any], rater: str, desk: Desk) -> dict[str, Any]:
    """What a page posted, where it takes itself for who its cookie says: another tab may have opened another's link
    since, and then these votes are another rater's, whose places stood in another order."""
    _same(desk, given.get("store"))
    if given.get("rater", rater) != rater:
        raise Refusal(
            409,
            f"This page was opened as {str(given['rater'])[:64]!r}, and this browser has since opened the link of "
            f"{rater!r}. Open your own link again; what you answered is kept until then.",
        )
    return given


def _same(desk: Desk, store: Any) -> None:
    """Refuses a page that was opened on another store: it may have been served at this address before, and the same
    items stood there in another order."""
    if store is not None and store != desk.name:
        raise Refusal(
            409,
            "This page was opened on other feedback than is served here now. Reload it to judge what is here; answers "
            "that were not sent are kept in this browser, until that feedback is served at this address again.",
        )


async def _posted(request: Request) -> dict[str, Any]:
    try:
        given = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise DataError("What was posted is no JSON. Send an object.") from error
    if not isinstance(given, dict):
        raise DataError("What was posted is no JSON object. Send one.")
    return given


def _count(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isdecimal() or len(given) > 6:
        raise DataError(f"{name!r} must be a whole number. Correct it.")
    return int(given)


async def _answered(work: Callable[[], dict[str, Any]]) -> Response:
    """The work's answer; it is done in a thread, since a disk may be slow."""
    return _json(await run_in_threadpool(work))


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    # ASCII alone: half a surrogate pair, which a data file may hold, has no UTF-8.
    return Response(json.dumps(content), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json({"error": error.reason}, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "There is nothing at this address.", 405: "This address takes another method."}
    return _json({"error": f"{reason.get(error.status_code, 'This cannot be served.')} Open /."}, error.status_code)


async def _wrong(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _disk_said_no(request: Request, error: Exception) -> Response:
    print(f"palate label: {error}", file=sys.stderr)
    return _json(
        {
            "error": "The server's disk did not take it; what was acknowledged before is there. Make room on it. The "
            "page keeps what you said, and sends it again."
        },
        503,
    )


async def _our_fault(request: Request, error: Exception) -> Response:
    return _json({"error": "The server made a mistake, which its terminal shows. Reload, and go on."}, 500)


# ---- serving


def server(app: ASGIApp) -> uvicorn.Server:
    """A server for `serve`; `should_exit = True` ends it from another thread."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            access_log=False,
            log_level="error",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )


def serve(serving: uvicorn.Server, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serves on a bound socket, and calls `ready` once it does; Ctrl-C and SIGTERM end it with KeyboardInterrupt where
    their handlers raise that."""
    asyncio.run(_serve(serving, listener, ready))


async def _serve(serving: uvicorn.Server, listener: socket.socket, ready: Callable[[], None]) -> None:
    beside = [
        asyncio.create_task(let_go_of_waiting(lambda: list(serving.server_state.connections))),
        asyncio.create_task(_when_started(serving, ready)),
    ]
    try:
        await serving.serve(sockets=[listener])
    finally:
        for task in beside:
            task.cancel()


async def _when_started(serving: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not serving.started:
        await asyncio.sleep(0.01)
    await run_in_threadpool(ready)
