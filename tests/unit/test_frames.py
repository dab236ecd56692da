"""Which frames of a stack are a pipeline's own."""

from pathlib import Path
from traceback import FrameSummary

from eco2 import frames
from eco2.frames import own_frames, place

ENGINE = FrameSummary(frames.__file__, 1, "run")


def test_a_package_whose_name_begins_as_the_engines_is_no_part_of_it() -> None:
    own = FrameSummary(f"{Path(frames.__file__).parent}_shop/prices.py", 17, "price")
    assert own_frames([ENGINE, own]) == [own]
    assert place(own) == "eco2_shop/prices.py:17 in price"


def test_where_no_frame_is_a_pipelines_all_are_shown() -> None:
    assert own_frames([ENGINE]) == [ENGINE]
