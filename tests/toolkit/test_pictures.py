"""The pictures of the lessons are what their functions draw, can be read, and say what is true of the code."""

import json
import re
from xml.etree import ElementTree

import pytest

from thinwalls import addresses, course, pictures
from thinwalls.host import Keeper
from thinwalls.pictures import images, memory, packets, paper, standing
from thinwalls.pictures.__main__ import main

SVG = "{http://www.w3.org/2000/svg}"
NAMES = list(pictures.PICTURES)
TALL = 0.78, 0.24  # of a letter's size: above and below the base line


def drawn(name):
    return ElementTree.fromstring((pictures.FOLDER / f"{name}.svg").read_text())


def texts(root):
    """(words, left, top, right, bottom) of every text, estimated by its characters."""
    for each in root.iter(f"{SVG}text"):
        size = int(each.get("font-size", root.get("font-size")))
        wide = paper.wide(each.text, size, each.get("font-weight") == "bold", "font-family" in each.attrib)
        left = float(each.get("x")) - wide * {"start": 0, "middle": 0.5, "end": 1}[each.get("text-anchor", "start")]
        base = float(each.get("y"))
        yield each.text, left, base - TALL[0] * size, left + wide, base + TALL[1] * size


def boxes(root):
    """(left, top, right, bottom) of every box, the page among them."""
    for each in root.findall(f"{SVG}rect"):
        x, y, width, height = (float(each.get(key, 0)) for key in ("x", "y", "width", "height"))
        yield x, y, x + width, y + height


def unfit(root):
    """The words that run out of the smallest box in which they begin, or into other words."""
    found, seen = [], []
    for words, left, top, right, bottom in texts(root):
        x, y = (left + right) / 2, (top + bottom) / 2
        around = [box for box in boxes(root) if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
        smallest = min(around, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=(0, 0, 0, 0))
        if left < smallest[0] or right > smallest[2] or top < smallest[1] or bottom > smallest[3]:
            found.append(words)
        found += [
            f"{words} / {other}"
            for other, its_left, its_top, its_right, its_bottom in seen
            if left < its_right and its_left < right and top < its_bottom and its_top < bottom
        ]
        seen.append((words, left, top, right, bottom))
    return found


def test_what_is_in_the_folder_is_what_is_drawn(capsys):
    assert pictures.differences() == []
    assert main(["check"]) == 0
    assert "are as they are drawn" in capsys.readouterr().out


def test_a_picture_that_differs_or_is_missing_or_drawn_by_nothing_is_found(tmp_path):
    pictures.build(tmp_path)
    assert pictures.differences(tmp_path) == []
    (tmp_path / f"{NAMES[0]}.svg").write_text("<svg/>")
    (tmp_path / f"{NAMES[1]}.svg").unlink()
    (tmp_path / "other.svg").write_text("<svg/>")
    said = [f"{NAMES[0]}.svg is not what would be drawn", f"{NAMES[1]}.svg is missing", "other.svg is drawn by nothing"]
    assert pictures.differences(tmp_path) == said


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_has_a_title_and_its_content_in_words(name):
    root = drawn(name)
    title, told = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {told.get('id')}"
    assert len(title.text) > 15
    assert len(told.text) > 200
    assert not set("[]\n") & set(title.text + told.text), "they are to stand in markdown"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_needs_nothing_but_itself(name):
    text = (pictures.FOLDER / f"{name}.svg").read_text()
    assert "href" not in text and "@import" not in text and "<script" not in text and "<!" not in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{each}" for each in ids}
    assert all(each.startswith(name) for each in ids), "unique also where several stand in one page"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_can_be_read_on_a_telephone_and_without_colour(name):
    root = drawn(name)
    assert float(root.get("width")) == paper.WIDTH
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    small = min(int(each.get("font-size", root.get("font-size"))) for each in root.iter(f"{SVG}text"))
    assert small * 360 / paper.WIDTH > 10, "a letter's height, in pixels of a telephone"
    page = next(root.iter(f"{SVG}rect"))
    background = next(each for each in root.findall(f"{SVG}rect"))
    assert page is not None and background.get("width") == root.get("width") and background.get("fill") == "#ffffff"
    colours = {each.get(key) for each in root.iter() for key in ("fill", "stroke")} - {None, "none"}
    assert {each for each in colours if not each.startswith("url(#")} <= {"currentColor", "#ffffff"}


@pytest.mark.parametrize("name", NAMES)
def test_words_stay_in_their_boxes_and_out_of_each_other(name):
    assert unfit(drawn(name)) == []


def test_words_that_do_not_fit_are_found():
    sheet = paper.Paper("x", "x", "x")
    sheet.box(10, 10, 60, 30)
    sheet.text(15, 30, "far too long", 500)
    sheet.text(100, 80, "words", 500)
    sheet.text(120, 85, "on words", 500)
    assert unfit(ElementTree.fromstring(sheet.svg(100))) == ["far too long", "on words / words"]
    with pytest.raises(paper.Unfit, match="'far too long' takes"):
        sheet.box(10, 10, 60, 30, ["far too long"])
    with pytest.raises(paper.Unfit, match="3 lines in a box 30 high"):
        sheet.box(10, 10, 60, 30, ["a", "b", "c"])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_picture_calls_code_is_in_the_solutions(name):
    """Calls, flags and classes, in the reference of its stage or of one before it."""
    stage = int(name[5:7])
    sources = "".join(course.reference(each) for each in course.stages() if int(each.id) <= stage)
    sources += (course.ROOT / "thinwalls" / "image.py").read_text()
    code = [each.text for each in drawn(name).iter(f"{SVG}text") if "font-family" in each.attrib]
    words = [word for text in code for word in re.findall(r"\w+(?=\()|\b[A-Z]\w+", text)]
    assert [word for word in words if not re.search(rf"\b{word}\b", sources)] == []
    if "_walls" in name or name in ("stage00_launcher", "stage02_init", "stage03_pivot_root"):
        assert words


@pytest.mark.parametrize("stage", standing.STAGES)
def test_the_walls_of_a_stage_are_those_that_it_builds(stage):
    """Each class that its picture marks as new is a Wall of its solution, and each that `./walls run` uses is shown."""
    new = {wall for _, how in standing.ROWS if stage in how for wall in how[stage][2].split(", ")}
    found = next(each for each in course.stages() if int(each.id) == stage)
    classes = set(re.findall(r"^class (\w+)\((?:Wall|Isolated)\)", course.reference(found), re.MULTILINE))
    assert new <= classes
    used = {each.name.rpartition(".")[2] for each in course.walls() if each.stage == found}
    assert used - new <= {"Sealed", "OneUserNamespace", "Names"}, "those without which nothing more would be shared"


def test_the_addresses_of_a_packet_are_those_of_the_course():
    source = course.reference(next(stage for stage in course.stages() if stage.id == "05"))
    assert f'BRIDGE = "{packets.BRIDGE}"' in source
    assert f'INSIDE = "{packets.INSIDE}"' in source
    lease = addresses.Lease(min(addresses.NUMBERS), -1)
    assert (lease.address, lease.name) == (packets.CONTAINER, packets.CABLE)


def test_the_layers_are_those_of_the_lesson():
    lesson = (course.ROOT / "notebooks" / "stage06_image_pull.py").read_text()
    three = lesson.partition("def three():")[2].partition("def tree(")[0]
    told = [dict(re.findall(r'\("([^"]+)", "([^"]*)"\)', line)) for line in three.splitlines() if "archive(" in line]
    assert told == [{path: json.dumps(text)[1:-1] for path, text in layer.items()} for layer in images.LAYERS]


def test_the_curve_is_a_measurement_that_ended_at_the_limit():
    holds(json.loads(memory.STORED.read_text()))


def test_the_memory_of_a_container_can_be_measured_here(tmp_path):
    with Keeper() as keeper:
        bounded = keeper.cgroup
    if bounded:
        memory.measure(tmp_path / "memory.json")
        holds(json.loads((tmp_path / "memory.json").read_text()))
    else:
        with pytest.raises(memory.Unmeasurable, match="lets you make no cgroup"):
            memory.measure(tmp_path / "memory.json")
        assert not (tmp_path / "memory.json").exists()


def holds(found):
    limit, at = int(found["limit"].removesuffix("m")) * memory.MIB, found["at"]
    times, sizes = zip(*found["samples"], strict=True)
    assert list(times) == sorted(times) and len(times) > 50
    assert found["status"] == 137 and found["out_of_memory"] is True
    assert limit * 0.8 < max(sizes) <= limit
    flat = [size for time, size in found["samples"] if at["asks"] < time < at["touches"]]
    assert max(flat) - min(flat) < 2 * memory.MIB, "who asks is not charged"
    assert at["asks"] < at["touches"] < times[sizes.index(max(sizes))] < at["ended"] + 0.1


def test_a_picture_in_a_lesson_has_its_own_text_alternative():
    line = pictures.markdown("stage02_init")
    assert line.startswith("![The fork of init") and line.endswith("](pictures/stage02_init.svg)")
    folded = "# Text\n#\n" + line.replace(" stays ", " stays\n# ") + "\n"
    assert folded.count("\n# ") == 1 and pictures.misplaced(folded) == []
    assert pictures.misplaced(line.replace("stays", "goes")) == [
        "the text alternative of stage02_init is not the one that it has"
    ]
    assert pictures.misplaced("![a dog](pictures/dog.svg)") == ["there is no picture dog"]
    assert pictures.misplaced("![a dog](pictures/dog.svg) ![a cat](elsewhere/cat.svg)") == ["there is no picture dog"]


@pytest.mark.parametrize("stage", course.stages(), ids=lambda stage: stage.stem)
def test_the_pictures_of_a_lesson_are_there_and_told_in_words(stage):
    assert pictures.misplaced((course.ROOT / "notebooks" / f"{stage.stem}.py").read_text()) == []


def test_the_command_line_says_what_it_understands(capsys):
    assert main(["lines"]) == 0
    assert capsys.readouterr().out.count("](pictures/stage") == len(NAMES)
    assert main([]) == 2
    assert "thinwalls.pictures build" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_shown_in_its_lesson(name):
    (lesson,) = (course.ROOT / "notebooks").glob(f"{name[:7]}*.py")
    assert lesson.read_text().count(f"(pictures/{name}.svg)") == 1
