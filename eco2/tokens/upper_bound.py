"""Bounds what a text counts from above, whatever is in it: no mean holds for rare scripts and random letters.

The vocabularies of the models work on bytes, so no text has more tokens than bytes. Tighter, by measurement
with o200k (random texts of each class): letters of the Latin alphabet 0.70 a letter, digits three at a time,
a syllable of Korean 1 if it is in the vocabulary, else up to 3. All else counts its bytes (cuneiform: 4).
The price: long ordinary English is bounded at about 2.7 times what it counts, Korean at 1.7 times.
"""

import math
import re

_PIECES = re.compile(
    r"(?P<word> ?[A-Za-z]+)|(?P<number>[0-9]{1,3})|(?P<syllable>[가-힣])|(?P<sign>[\x00-\x7f])|(?P<other>.)",
    re.DOTALL,
)
RARE = re.compile(r"[^\x00-\u2fff\u3000-\u9fff\uac00-\ud7a3\uf900-\ufffd]+")
"""Hardly in ordinary text of any living script: signs beyond the basic plane, private use."""
MAX_LETTER = 0.75
"""Tokens of a letter in a word of random letters, at the most."""

MAX_ORDINARY = 120
"""Characters of a question that may be taken for an ordinary one."""
_ASCII, _SYLLABLE, _SLACK = 0.85, 1.35, 6.0
"""An ordinary text stays below so many tokens, by this bound, for each ASCII character and each syllable."""


def upper_bound(text: str) -> int:
    """Computes the most tokens that `text` can count."""
    return math.ceil(sum(_most(found) for found in _PIECES.finditer(text)))


def is_ordinary(text: str) -> bool:
    """Tests for a short text of usual Korean or ASCII, which a learnt mean describes."""
    syllables = sum("가" <= char <= "힣" for char in text)
    usual = _ASCII * sum(char.isascii() for char in text) + _SYLLABLE * syllables + _SLACK
    return len(text) <= MAX_ORDINARY and upper_bound(text) <= usual


def _most(found: re.Match[str]) -> float:
    piece = found[0]
    match found.lastgroup:
        case "word":
            return max(1.0, MAX_LETTER * len(piece.lstrip()))
        case "number" | "sign":
            return 1.0
        case "syllable":
            return 1.0 if piece in _SYLLABLES else 3.0
        case _:
            return len(piece.encode(errors="replace"))


_SYLLABLES = frozenset(
    "가각간갈감갑값강같개객거건걸검겁것게겠겨격견결겼경계고곡곤골곳공과관광괴교구국군굴궁권귀규"
    "균그극근글금급기긴길김까깔깨꺼께껴꽃꾸꿈끄끌끔끝끼낌나난날남납났내낸낼냈냐냥너널넘네넷녀녁"
    "년념녕노논놀농높놓누눈뉴느는늘능니닉닌님닝다닥단닫달담답닷당대댓더덕던덤데델도독돈돌동돼됐"
    "되된될됨됩두둘뒤드득든들듯등디딩따때떠떤또뜨뜻라락란람랍랑래랙랜램랩랫략량러럭런럴럼럽렇레"
    "렉렌렛려력련렬렴렵렸령례로록론롤롭롯뢰료루룸룹류률르른를름리릭린릴림립릿링마막만많말맛망맞"
    "매맥맨머먹먼멀메멘며면명몇모목몬몰몸못무문물뮤므미민밀밍및바박밖반받발밤방배백버번벌범법베"
    "벤벨벽변별병보복본볼봉봐봤부북분불붙뷰브블비빈빌빙빛빠뿐쁘쁜사삭산살삼상새색생샵서석선설섭"
    "성세센셀셔션셜셨소속손솔송쇄쇼수숙순술숨쉬쉽슈스슨슬슴습슷승시식신실심십싱싶싸써쓰쓴씀씨씩"
    "씬아악안않알암압았앙앞애액앤앨야약양어억언얼엄업없엇었에엔엘여역연열염였영예오옥온올옵와완"
    "왔왕왜외요욕용우욱운울움웃워원월웠웨웹위윈유육윤율융으은을음응의이익인일읽임입있자작잔잘잠"
    "잡장재쟁저적전절점접정제젝젠져졌조족존좀종좋좌죄죠주죽준줄중줘즈즌즐즘증지직진질짐집짓징짜"
    "짝째쪽찌찍차착찬찮찰참창찾채책처척천철첨첫청체쳐쳤초촉촌총최추축춘출춤충춰취츠측층치칙친칠"
    "침칭카칼캐커컨컬컴컵케켓켜코콘콜콩쿠큐크큰클큼키킨킬킹타탁탄탈탕태택터턴털테텍텐텔템토톡톤"
    "통퇴투튀튜트특튼틀티틱틴팀팅파판팔패팩팬퍼페펴편평폐포폭폰폴폼표푸풀품풍퓨프픈플피픽핀필핏"
    "핑하학한할함합항해했행향허헌험헤혀혁현혈협형혜호혹혼홀홈홍화확환활황회획효후훈휘휴흡흥희히"
    "힌힘"
)
"""Those with a token of their own in o200k; texts of others count them with two or three."""
