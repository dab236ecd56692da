"""Picture URLs: the public web passes; private addresses in every notation, and tricks, do not."""

import pytest

from eco2.pipeline import InvalidInput
from eco2.stages.image_url import check

PUBLIC = """
    https://example.org/a.jpg HTTPS://EXAMPLE.ORG/x https://example.org:443/a?b=c#d http://example.org:80/ https://example.org./x
    http://8.8.8.8/x http://1.2.3.4 https://[2606:4700::1111]/a https://[64:ff9b::808:808]/
    https://xn--9n2bp8q.kr/사진.jpg https://a_b.example.org https://xn--9n2bp8q.xn--3e0b707e/a.jpg
    https://i1-2-3.example.org/8.8.8.8.jpg https://v8-8-8-8.example.org https://service.example.org https://1password.com
    https://cdn.example.org/a@b.jpg
"""
PRIVATE = """
    http://127.0.0.1/a http://127.0.0.1. http://127.1 http://2130706433/ http://0x7f000001/ http://0x7f.1/
    http://0177.0.0.1/ http://0/ http://0.0.0.0 http://0x/ http://10.1.2.3 http://192.168.0.1:8080/x
    http://172.16.9.9 http://100.64.1.1 http://169.254.169.254/latest http://224.0.0.1 http://255.255.255.255
    http://[::1]/ http://[::]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[::127.0.0.1]/
    http://[fe80::1]/ http://[fe80::1%25eth0]/ http://[2606:4700::1111%25eth0]/ http://[fc00::1]/
    http://[ff02::1]/ http://[64:ff9b::7f00:1]/ http://[2002:7f00:1::]/
    http://localhost http://LOCALHOST. http://a.localhost http://metadata.google.internal/
    http://printer.local http://intranet http://1.168.192.in-addr.arpa
    http://１２７.0.0.1/ http://127。0。0。1/ http://①27.0.0.1
    http://rabbitmq.scan/ http://rabbitmq.scan.svc/ http://kubernetes.default.svc http://a.b.svc.cluster.local/
    http://kubernetes/ http://a.consul http://router.localdomain http://a.internal.example.org
    http://127.0.0.1.nip.io/ http://10-0-0-1.nip.io http://8.8.8.8.nip.io http://a.sslip.io http://lvh.me
    http://app.10.0.0.1.example.org http://169-254-169-254.example.org http://x010.000.000.001.example.org
    http://[fec0::1]/ http://192.0.0.192/ http://168.63.129.16/ http://0.1.2.3/ http://198.18.0.1
    http://192.88.99.1/ http://240.0.0.1/ http://[2001:0:7f00:1::]/ http://[64:ff9b:1::a00:1]/ http://[::a00:1]/
    http://[::ffff:169.254.169.254]/ http://[::ffff:0:127.0.0.1]/ http://0250.0077.0201.0020/ http://0xa83f8110/
    http://rabbitmq.example.org:15672/ https://example.org:8443/ http://example.org:22/ http://8.8.8.8:81/
    https://재활용.kr/사진.jpg https://example.орг/
"""
IGNORED = (
    "\u00ad\u034f\u061c\u115f\u17b4\u180b\u180e\u200b\u200c\u200d"
    "\u2060\u2064\u3164\ufe00\ufe0f\ufeff\U000e0101\U000e0041"
)
NO_URLS = """
    http://%31%32%37.0.0.1 http://256.1.1.1 http://1.2.3.4.5 http://example.0x7f http://u:p@example.org
    http://u@example.org http://@example.org http://example.org\\@127.0.0.1 http://example.org:99999
    http://example.org:0 http://example.org:x http:///a http:// http://a..b/ http://.example.org
    http://exa$mple.org http://[::1 http://[v1.x]/ http://[]/ https:example.org ftp://example.org
    file:///etc/passwd javascript:alert(1) a.jpg //example.org/a.jpg
"""


@pytest.mark.parametrize("url", PUBLIC.split())
def test_the_public_web_passes_unchanged(url: str) -> None:
    assert check(url) == url


@pytest.mark.parametrize("url", (PRIVATE + NO_URLS).split())
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(url)
    assert (refused.value.code, refused.value.status) == ("INVALID_REQUEST", 422)


@pytest.mark.parametrize("character", ["\0", "\t", "\n", "\r", " ", "\x7f"])
def test_characters_that_parsers_drop_are_refused(character: str) -> None:
    with pytest.raises(InvalidInput):
        check(f"https://exam{character}ple.org/a.jpg")


@pytest.mark.parametrize("at", [len("http://"), len("http://169.254.169.2"), len("http://169.254.169.254")])
@pytest.mark.parametrize("character", IGNORED, ids=ascii)
def test_characters_that_resolvers_ignore_are_refused(character: str, at: int) -> None:
    url = "http://169.254.169.254/latest"
    for host in (url, "http://public-site.example.org/"):
        with pytest.raises(InvalidInput) as refused:
            check(host[:at] + character + host[at:])
        assert refused.value.status == 422


def test_a_refused_name_in_another_script_is_answered_with_the_ascii_form() -> None:
    with pytest.raises(InvalidInput, match="xn--"):
        check("https://재활용.kr/사진.jpg")


def test_a_url_has_at_most_2000_characters() -> None:
    stem = "https://example.org/"
    assert check(stem + "a" * (2000 - len(stem)))
    with pytest.raises(InvalidInput):
        check(stem + "a" * (2001 - len(stem)))
