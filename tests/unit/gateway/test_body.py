"""The digest of a request."""

from eco2.gateway.body import digest
from eco2.pipeline import Form, Upload


def test_the_digest_is_of_fields_and_bytes_and_not_of_their_order_or_file_names() -> None:
    form = Form({"a": "1", "b": ["물"]}, {"image": Upload("x.jpg", "image/jpeg", b"1")})
    same = Form({"b": ["물"], "a": "1"}, {"image": Upload("y.png", "image/png", b"1")})
    others = [
        Form({"a": 1, "b": ["물"]}, form.files),
        Form(form.fields),
        Form(form.fields, {"image": Upload("x.jpg", "image/jpeg", b"2")}),
        Form(form.fields, {"photo": form.files["image"]}),
    ]
    assert digest("scan", form) == digest("scan", same)
    digests = {digest("scan", form), digest("echo", form), *(digest("scan", other) for other in others)}
    assert len(digests) == 6
    assert digest("scan", Form({"n": 10**30})) != digest("scan", Form({"n": 10**30 + 1}))
