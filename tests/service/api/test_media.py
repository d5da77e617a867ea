"""The form of a body and of its answer."""

import pytest

from service.api.media import Media, sent, wanted

JSON, MSGPACK = Media.JSON, Media.MSGPACK


@pytest.mark.parametrize(
    ("content_type", "media"),
    [
        ("application/json", JSON), ("application/json; charset=utf-8", JSON), ("", JSON),
        ("application/x-www-form-urlencoded", JSON), ("text/plain", JSON), ("application/msgpack", MSGPACK),
        ("Application/X-MsgPack", MSGPACK), ("application/vnd.msgpack; v=5", MSGPACK),
    ],
)  # fmt: skip
def test_the_content_type_says_what_was_sent(content_type: str, media: Media) -> None:
    """MessagePack by each of its names; anything else is read as JSON, which `curl -d` calls a form."""
    assert sent({"content-type": content_type}) is media
    assert sent({}) is JSON


@pytest.mark.parametrize(
    ("accept", "body", "media"),
    [
        ("", "application/msgpack", MSGPACK), ("*/*", "application/msgpack", MSGPACK), ("*/*", "", JSON),
        ("text/html", "application/msgpack", MSGPACK), ("application/json", "application/msgpack", JSON),
        ("application/x-msgpack", "application/json", MSGPACK),
        ("application/json, application/msgpack", "application/msgpack", MSGPACK),
        ("application/json, application/msgpack", "application/json", JSON),
        ("application/msgpack;q=0.5, application/json", "application/msgpack", JSON),
        ("application/msgpack ; q=1, application/json;q=0.9", "", MSGPACK),
        ("application/msgpack;q=0", "", JSON), ("application/msgpack;q=x, */*", "", MSGPACK),
        ("application/json, text/plain, */*", "application/msgpack", JSON), (";;,q=,", "", JSON),
        ("application/msgpack;q=0, */*", "application/msgpack", JSON),
        ("application/msgpack;q=0.000", "application/msgpack", JSON),
        ("application/json;q=0", "application/json", MSGPACK),
        ("application/json;q=0, application/msgpack;q=0", "application/msgpack", MSGPACK),
        ("application/msgpack;q=0.001, */*", "", MSGPACK), ("application/json;q=-1", "", MSGPACK),
        ("application/msgpack;q=nan, application/json", "", JSON),
        ("application/msgpack, application/json;q=nan", "application/msgpack", MSGPACK),
        ("application/msgpack;q=inf, application/json", "", JSON),
        ("application/msgpack;q=7, application/json", "", JSON),
        ("application/msgpack, application/x-msgpack;q=0", "", MSGPACK),
    ],
)  # fmt: skip
def test_accept_says_what_comes_back(accept: str, body: str, media: Media) -> None:
    """The better liked of those that it names; else the answer comes as the body did.

    Nobody is liked better than by 1; what has the weight 0 is sent to nobody who lets the other be.
    """
    assert wanted({"accept": accept, "content-type": body}) is media
