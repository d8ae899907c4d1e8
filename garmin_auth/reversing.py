"""URLs of the app's pages, wherever a site has included them."""

import re
from collections.abc import Iterator
from typing import Any

from django.urls import NoReverseMatch, URLResolver, get_resolver, get_urlconf, reverse


def page_url(name: str, request: Any = None, **arguments: str) -> str:
    """Return the URL of one of our pages.

    ``reverse("garmin_auth:…")`` does not find it if a site has included our URLs in a namespace of
    its own, or under a prefix that captures something.

    Args:
        name: the page's URL name, without the namespace.
        request: the current request, if any. Its namespace is preferred, and a captured prefix
            gets what was captured from this request's URL.
        arguments: what the page's own URL pattern captures.

    Returns:
        The URL; "" if the site has not included our URLs, or captures something that this request's
        URL does not contain.
    """
    match = getattr(request, "resolver_match", None)
    own, args, kwargs = (match.namespaces, match.args, match.kwargs) if match else ([], (), {})
    current = getattr(request, "current_app", None) or ":".join(own)
    try:
        return reverse(f"garmin_auth:{name}", kwargs=arguments, current_app=current)
    except NoReverseMatch:
        pass
    found = sorted(included(), key=lambda each: -_shared(each[0], own))
    for namespaces, captured in found:
        if captured <= kwargs.keys():
            try:
                return reverse(
                    ":".join((*namespaces, name)),
                    args=args if [*namespaces] == own else (),
                    kwargs={**{key: kwargs[key] for key in captured}, **arguments},
                )
            except (NoReverseMatch, ValueError):  # A prefix captures something without a name.
                continue
    return ""


def included() -> list[tuple[tuple[str, ...], frozenset[str]]]:
    """Return each place where the site has included our URLs.

    A place is the names of its namespaces, from the outermost to ours, and of what its prefix
    captures.
    """
    return list(_included(get_resolver(get_urlconf()), (), frozenset()))


def _included(
    resolver: URLResolver, outer: tuple[str, ...], captured: frozenset[str]
) -> Iterator[tuple[tuple[str, ...], frozenset[str]]]:
    for namespace, (prefix, inner) in resolver.namespace_dict.items():
        names = captured.union(re.compile(prefix).groupindex)
        if inner.app_name == "garmin_auth":
            yield (*outer, namespace), names
        else:
            yield from _included(inner, (*outer, namespace), names)


def _shared(namespaces: tuple[str, ...], own: list[str]) -> int:
    """Return how many of the outer namespaces are the same."""
    count = 0
    for one, other in zip(namespaces, own, strict=False):
        if one != other:
            break
        count += 1
    return count
