"""The router."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import ConfigurationError
from durable_core.routing import Matched, MethodNotAllowed, Route, Router

PATHS = [
    "/",
    "/users",
    "/users/",
    "/users/me",
    "/users/{id}",
    "/users/{id}/posts",
    "/{kind}/me",
    "/files/{rest:path}",
    "/{all:path}",
]


def found(router: Router[str], method: str, path: str) -> tuple[str, dict[str, str]] | None:
    match = router.match(method, path)
    return (match.route.path, match.path_params) if isinstance(match, Matched) else None


def routes(*paths: str) -> list[Route[str]]:
    return [Route(path, path) for path in paths]


@pytest.mark.parametrize(
    ("path", "template", "params"),
    [
        ("/", "/", {}),
        ("/users", "/users", {}),
        ("/users/", "/users/", {}),
        ("/users/me", "/users/me", {}),
        ("/users/é b", "/users/{id}", {"id": "é b"}),
        ("/users/7/posts", "/users/{id}/posts", {"id": "7"}),
        ("/cats/me", "/{kind}/me", {"kind": "cats"}),
        ("/files/", "/files/{rest:path}", {"rest": ""}),
        ("/files/a/b\nc", "/files/{rest:path}", {"rest": "a/b\nc"}),
        ("/files", "/{all:path}", {"all": "files"}),
        ("/users/7/", "/{all:path}", {"all": "users/7/"}),
    ],
)
def test_the_most_specific_template_is_taken(
    path: str, template: str, params: dict[str, str]
) -> None:
    """Segment by segment: fixed text, then one segment, then the rest; whatever the order given."""
    for order in (PATHS, PATHS[::-1]):
        assert (template, params) == found(Router(routes(*order)), "GET", path)


@given(st.lists(st.sampled_from(PATHS), unique=True), st.sampled_from(PATHS))
def test_the_order_of_routes_does_not_matter(paths: list[str], path: str) -> None:
    """A router of the same routes in another order answers the same."""
    one, other = Router(routes(*paths)), Router(routes(*reversed(paths)))
    assert found(one, "GET", path) == found(other, "GET", path)


@given(st.text(st.characters(exclude_characters="/"), min_size=1), st.text())
def test_parameters_take_any_text(segment: str, rest: str) -> None:
    """A parameter is one segment that is not empty; a path parameter anything."""
    router = Router(routes("/a/{x}", "/b/{y:path}"))
    assert found(router, "GET", f"/a/{segment}") == ("/a/{x}", {"x": segment})
    assert found(router, "GET", f"/b/{rest}") == ("/b/{y:path}", {"y": rest})


def test_no_such_path() -> None:
    """None: not even with another method."""
    router = Router(routes("/a/{x}", "/a.b"))
    for path in ("/", "", "/a", "/a/", "/a/b/c", "/a/b/", "/axb", "a/b"):
        assert router.match("GET", path) is None
    assert Router[str]([]).match("GET", "/") is None


def test_the_method_is_wrong() -> None:
    """Allow has the methods of every route for the path, sorted, with OPTIONS."""
    router = Router([Route("/a", 1, ("PUT", "DELETE")), Route("/{x}", 2), Route("/a/b", 3)])
    assert MethodNotAllowed(("DELETE", "GET", "OPTIONS", "PUT")) == router.match("POST", "/a")
    assert MethodNotAllowed(("GET", "OPTIONS")) == router.match("POST", "/z")
    assert MethodNotAllowed(("GET", "OPTIONS")) == router.match("get", "/z")
    assert MethodNotAllowed(("GET", "OPTIONS")) == router.match("HEAD", "/a/b")


def test_a_less_specific_route_may_have_the_method() -> None:
    """The most specific route that has the method answers."""
    router = Router([Route("/a", 1, ("PUT",)), Route("/{x}", 2, ("GET",))])
    match = router.match("GET", "/a")
    assert isinstance(match, Matched)
    assert match.route.endpoint == 2


def test_one_path_may_have_a_route_for_each_method() -> None:
    """Routes with the same template and other methods live together."""
    router = Router([Route("/a/{x}", 1, ("GET", "HEAD")), Route("/a/{y}", 2, ("POST",))])
    match = router.match("POST", "/a/7")
    assert isinstance(match, Matched)
    assert (match.route.endpoint, match.path_params) == (2, {"y": "7"})


@pytest.mark.parametrize(
    ("one", "other"),
    [("/a", "/a"), ("/a/{x}", "/a/{y}"), ("/{x:path}", "/{y:path}"), ("/{x}/b", "/{z}/b")],
)
def test_two_routes_for_the_same_requests_are_refused(one: str, other: str) -> None:
    """The names of parameters do not tell routes apart."""
    with pytest.raises(ConfigurationError, match="two routes answer PUT"):
        Router([Route(one, 1, ("GET", "PUT")), Route(other, 2, ("PUT",))])
    route = Route(one, 1)
    with pytest.raises(ConfigurationError, match="two routes answer GET"):
        Router([route, route])


def test_different_shapes_never_conflict() -> None:
    """All templates that differ in more than names can be used together."""
    for one, other in itertools.combinations(PATHS, 2):
        assert len(Router(routes(one, other)).routes) == 2


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "{x}",
        "/{}",
        "/{1}",
        "/{x",
        "/x}",
        "/a{x}",
        "/{x}{y}",
        "/{x:int}",
        "/{x:path}/a",
        "/{x}/{x}",
        "/{a b}",
        "/{x!r}",
        "/{é}",
    ],
)
def test_a_bad_template_is_refused(path: str) -> None:
    """The error names the route."""
    with pytest.raises(ConfigurationError, match=r"^route "):
        Route(path, 1)


@pytest.mark.parametrize("methods", ["GET", (), ("get",), ("A B",), ("",)])
def test_bad_methods_are_refused(methods: Any) -> None:
    """Methods are a tuple of upper-case names."""
    with pytest.raises(ConfigurationError, match=r"^route '/a': "):
        Route("/a", 1, methods)


def test_methods_become_a_tuple() -> None:
    """A list is taken too, and cannot be changed afterwards."""
    assert Route("/a", 1, ["GET", "POST"]).methods == ("GET", "POST")  # type: ignore[arg-type]
