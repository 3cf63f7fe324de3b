"""Jobs on a loaded engine: outputs, isolation, failures, progress."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_graph_without_models_saves_its_pictures(engine: Driver) -> None:
    done, job = engine.run(graphs.hello(color=0xFF0000, count=3))
    assert done["status"] == "succeeded", done
    assert len(done["outputs"]["out"]) == len(job.files()) == 3
    with Image.open(job.output / done["outputs"]["out"][0]["name"]) as image:
        assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((32, 32), (255, 0, 0))


def test_an_input_file_is_read_from_the_jobs_own_folder(engine: Driver) -> None:
    graph = graphs.invert("in.png")
    for color, inverted in (("black", (255, 255, 255)), ("white", (0, 0, 0))):
        done, job = engine.run(graph, files={"in.png": picture(color)})
        assert done["status"] == "succeeded", done
        with Image.open(job.output / done["outputs"]["out"][0]["name"]) as image:
            assert image.convert("RGB").getpixel((0, 0)) == inverted


def test_a_repeated_graph_saves_its_own_file_from_cached_results(engine: Driver) -> None:
    graph = graphs.hello(color=0x123456, prefix="again")
    first, one = engine.run(graph)
    one.output.joinpath(first["outputs"]["out"][0]["name"]).unlink()
    second, two = engine.run(graph)
    assert set(first["node_seconds"]) == {"1", "2", "3"}
    assert set(second["node_seconds"]) == {"3"}
    assert two.files() == [second["outputs"]["out"][0]["name"]]


@pytest.mark.parametrize("kind", ["ReadsInput", "ReadsAndTidies"])
def test_a_node_without_fingerprint_reads_its_input_file_again(engine: Driver, kind: str) -> None:
    graph = {
        "1": graphs.node(kind, file="note.txt"),
        "2": graphs.node("Echo", text=["1", 0]),
        "3": graphs.node("Tell", text=["2", 0]),
    }
    assert engine.texts(graph, files={"note.txt": b"one"}) == ["one"]
    assert engine.texts(graph, files={"note.txt": b"two"}) == ["two"]


def test_files_of_expanded_nodes_belong_to_their_own_job(engine: Driver) -> None:
    graph = {
        "1": graphs.node("Expands", color=0x00FF00),
        "2": graphs.node("SaveImage", images=["1", 0], filename_prefix="after"),
    }
    for _ in range(2):
        done, job = engine.run(graph, output="1")
        assert done["status"] == "succeeded", done
        assert [file["name"] for file in done["outputs"]["out"]] == ["expanded_00001_.png"]
        assert job.files() == ["expanded_00001_.png"]


def test_a_path_into_a_jobs_folder_is_not_passed_to_the_next_job(engine: Driver) -> None:
    for number in range(2):
        graph = {
            "1": graphs.node("WritesTemp", text="a note"),
            "2": graphs.node("ReadsPath", path=["1", 0], again=number),
            "3": graphs.node("Tell", text=["2", 0]),
        }
        assert engine.texts(graph) == ["a note"]


def test_a_temp_file_is_an_output_when_the_workflow_names_it(engine: Driver) -> None:
    graph = {**graphs.hello(prefix="kept"), "4": graphs.node("PreviewImage", images=["1", 0])}
    done, job = engine.run(graph, output="4")
    assert [file["content_type"] for file in done["outputs"]["out"]] == ["image/png"]
    assert not any(name.startswith(".temp") for name in job.files())


def test_temp_files_that_are_not_outputs_are_deleted_after_the_job(engine: Driver) -> None:
    graph = {**graphs.hello(prefix="kept"), "4": graphs.node("PreviewImage", images=["1", 0])}
    _, job = engine.run(graph, output="3")
    assert job.files() == ["kept_00001_.png"]


TWO_SAVES: dict[str, Any] = {
    **graphs.hello(prefix="sub/draft"),
    "4": graphs.node("ImageInvert", image=["2", 0]),
    "5": graphs.node("SaveImage", images=["4", 0], filename_prefix="sub/draft"),
}
DRAFT_AND_LAST = {
    "last": {"node": "5", "kind": "image"},
    "draft": {"node": "3", "kind": "image", "many": True},
}


def test_an_output_is_reported_while_other_nodes_still_run(engine: Driver) -> None:
    done, job = engine.run(TWO_SAVES, outputs=DRAFT_AND_LAST)
    assert done["status"] == "succeeded", done
    kinds = [event["event"] for event in job.events]
    assert kinds.count("output") == 1
    assert "progress" in kinds[kinds.index("output") :]
    (early,) = [event for event in job.events if event["event"] == "output"]
    assert (early["name"], early["value"]) == ("draft", done["outputs"]["draft"])
    names = [done["outputs"]["draft"][0]["name"], done["outputs"]["last"]["name"]]
    assert names == ["draft_00001_.png", "draft_00002_.png"]
    assert job.files() == names


def test_outputs_of_expanded_nodes_are_the_same_early_and_in_the_end(engine: Driver) -> None:
    graph = {
        "1": graphs.node("Expands", color=0x00FF00),
        "2": graphs.node("SaveImage", images=["1", 0], filename_prefix="after"),
    }
    outputs = {"all": {"node": "1", "kind": "image"}, "after": {"node": "2", "kind": "image"}}
    done, job = engine.run(graph, outputs=outputs)
    assert done["outputs"]["all"]["name"] == "expanded_00001_.png"
    reported = {e["name"]: e["value"] for e in job.events if e["event"] == "output"}
    assert reported.items() <= done["outputs"].items()


def test_a_job_that_fails_later_has_the_outputs_that_were_complete(engine: Driver) -> None:
    done, job = engine.run(
        TWO_SAVES, outputs={**DRAFT_AND_LAST, "last": {"node": "5", "kind": "video"}}
    )
    assert done["error"]["code"] == "output_missing"
    assert [file["name"] for file in done["outputs"]["draft"]] == job.files()


def test_a_file_outside_the_jobs_folder_is_not_an_output(engine: Driver) -> None:
    graph = {
        "1": graphs.node("TellsOfForeignFiles", text="../../driver.log /etc/hostname gone.png")
    }
    done, _ = engine.run(graph, kind="file")
    assert done["error"]["code"] == "output_missing"


def test_an_input_name_outside_the_folder_is_not_found(engine: Driver) -> None:
    secret = engine.start(graphs.hello())
    secret.result()
    names = ["../../" + secret.job_id + "/output/hello_00001_.png", "/etc/hostname",
             "../output/x.png [input]"]  # fmt: skip
    for name in names:
        done, _ = engine.run(graphs.invert(name))
        assert done["error"]["code"] == "graph_invalid", (name, done)


def test_a_file_in_an_output_folder_that_a_pack_stored_is_moved_to_the_job(engine: Driver) -> None:
    graph = {"1": graphs.node("SavesWhereItWasImported", text="a note")}
    for _ in range(2):
        done, job = engine.run(graph, kind="file")
        assert done["status"] == "succeeded", done
        assert job.files() == [done["outputs"]["out"][0]["name"]]
    assert not any((engine.path / "output" / "notes").iterdir())


def test_an_output_of_the_wrong_kind_names_what_the_node_saved(engine: Driver) -> None:
    done, _ = engine.run(graphs.hello(), kind="video")
    assert done["error"]["code"] == "output_missing"
    assert "image/png" in done["error"]["detail"]


def test_text_and_json_are_returned_as_values(engine: Driver) -> None:
    graph = graphs.to_text("Text", text="a word")
    assert engine.texts(graph) == ["a word"]
    done, _ = engine.run(graph, kind="json")
    assert done["outputs"]["out"] == ["a word"]


FRAME = {"filename": "clip_%03d.png", "subfolder": "sub", "type": "output"}
FRAMES = {f"output/sub/clip_{number:03}.png": "" for number in (10, 2, 1)}


REPORTS: list[tuple[dict[str, str], dict[str, Any] | None, list[str]]] = [
    ({"output/mesh/a.png": ""}, {"result": ["mesh/a.png", None, {}]}, ["a.png"]),
    ({"output/mesh/a.png": ""}, {"result": "mesh/a.png"}, ["a.png"]),
    ({"output/mesh/a.png": ""}, {"result": ["mesh\\a.png"]}, ["a.png"]),
    ({"output/a.png": ""}, {"result": ["a.png [output]"]}, ["a.png"]),
    ({"output/a.png": ""}, {"files": [["{output}/a.png"]]}, ["a.png"]),
    ({"output/a.png": ""}, {"files": [{"fullpath": "{output}/a.png"}]}, ["a.png"]),
    ({"output/a.png": ""}, {"files": {"filename": "a.png"}}, ["a.png"]),
    ({"output/a.png": ""}, {"video": ["a.png", "output"]}, ["a.png"]),
    ({"temp/b.png": ""}, {"result": ["temp/b.png"]}, ["b.png"]),
    (FRAMES, {"gifs": [FRAME]}, ["clip_001.png", "clip_002.png", "clip_010.png"]),
    (FRAMES, {"gifs": ["sub/clip_%d.png"]}, ["clip_001.png", "clip_002.png", "clip_010.png"]),
    ({"output/n_10.png": "", "output/n_9.png": ""}, {"images": []}, ["n_9.png", "n_10.png"]),
    ({"output/a.png": "", "output/a.txt": "seed"}, None, ["a.png"]),
    ({"output/a.png": "", "temp/small.jpg": ""}, None, ["a.png", "small.jpg"]),
    ({"output/a.png": "", "output/b.txt": ""}, {"text": ["b.txt"]}, ["a.png"]),
]


@pytest.mark.parametrize(("files", "ui", "names"), REPORTS)
def test_files_are_found_in_any_form_in_which_a_node_reports_them(
    engine: Driver, files: dict[str, str], ui: dict[str, Any] | None, names: list[str]
) -> None:
    told = {"files": files} | ({"ui": ui} if ui is not None else {})
    for _ in range(2):
        done, _ = engine.run({"1": graphs.node("SavesAndReports", text=json.dumps(told))})
        assert done["status"] == "succeeded", done
        assert [file["name"] for file in done["outputs"]["out"]] == names


@pytest.mark.parametrize(
    "name", ["../../driver.log", "/etc/hostname", "/etc/host%d", "", "x" * 9999]
)
def test_a_bare_path_outside_the_jobs_folder_is_not_an_output(engine: Driver, name: str) -> None:
    told = json.dumps({"files": {}, "ui": {"result": [name]}})
    done, _ = engine.run({"1": graphs.node("SavesAndReports", text=told)}, kind="file")
    assert done["error"]["code"] == "output_missing"


def test_files_of_another_node_are_not_those_of_an_output_that_saved_none(engine: Driver) -> None:
    quiet = json.dumps({"files": {}})
    graph = {**graphs.hello(), "9": graphs.node("SavesAndReports", text=quiet)}
    done, _ = engine.run(graph, output="9")
    assert done["error"]["code"] == "output_missing"


@pytest.mark.parametrize(
    ("ui", "texts"),
    [
        ({"string": "a bare text"}, ["a bare text"]),
        ({"text": [["one", "two"]]}, ["one", "two"]),
        ({"text": ["a", "b"]}, ["a", "b"]),
        ({"text": ["notes.txt"]}, ["notes.txt"]),
    ],
)
def test_a_text_is_never_taken_letter_by_letter(
    engine: Driver, ui: dict[str, Any], texts: list[str]
) -> None:
    told = json.dumps({"files": {"output/notes.txt": "inside"}, "ui": ui})
    assert engine.texts({"1": graphs.node("SavesAndReports", text=told)}) == texts


def test_a_text_file_that_is_not_reported_is_a_text(engine: Driver) -> None:
    told = json.dumps({"files": {"output/notes.txt": "inside"}})
    assert engine.texts({"1": graphs.node("SavesAndReports", text=told)}) == ["inside"]


@pytest.mark.parametrize("way", ["bar", "server"])
def test_images_that_a_node_sends_to_the_front_end_are_its_output(engine: Driver, way: str) -> None:
    for previews in (False, True):
        graph = {"1": graphs.node("SendsImages", way=way)}
        done, job = engine.run(graph, previews=previews)
        assert done["status"] == "succeeded", done
        sent = [(file["name"], file["content_type"]) for file in done["outputs"]["out"]]
        assert sent == [
            ("SendsImages_00001.png", "image/png"), ("SendsImages_00002.jpg", "image/jpeg")
        ]  # fmt: skip
        assert len([e for e in job.events if e["event"] == "preview"]) == int(previews)


def test_random_state_does_not_leak_between_jobs(engine: Driver) -> None:
    graph = graphs.to_text("RandomNumbers")
    seeded = graphs.to_text("Seeds", seed=7)
    texts: set[str] = set()
    for _ in range(3):
        engine.run(seeded, kind="text")
        texts.update(engine.texts(graph))
    assert len(texts) == 3


def test_a_default_type_that_a_node_sets_is_restored(engine: Driver) -> None:
    before = engine.facts()["dtype"]
    engine.run(graphs.to_text("Seeds", seed=11), kind="text")
    assert engine.facts()["dtype"] == before


def test_working_folder_and_streams_are_restored(engine: Driver) -> None:
    (before,) = engine.texts(graphs.to_text("Writes", number=1))
    engine.texts(graphs.to_text("UpsetsTheProcess", number=1))
    assert engine.texts(graphs.to_text("Writes", number=2)) == [before]


def test_nothing_refers_to_a_jobs_folder_after_the_job(engine: Driver) -> None:
    _, job = engine.run(graphs.hello())
    facts = engine.facts()
    assert not facts["output"].startswith(str(job.folder))
    assert not facts["temp"].startswith(str(job.folder))


def test_progress_rises_from_zero_to_one_and_names_the_node(engine: Driver) -> None:
    job = engine.start(graphs.through("Steps", steps=7))
    job.result()
    assert job.fractions == sorted(job.fractions)
    assert (job.fractions[0], job.fractions[-1]) == (0.0, 1.0)
    steps = [(e["step"], e["steps"], e["node"], e["node_class"])
             for e in job.events if e.get("step")]  # fmt: skip
    assert steps == sorted(steps)  # newer releases skip some between the first and the last
    assert (steps[0], steps[-1]) == ((1, 7, "2", "Steps"), (7, 7, "2", "Steps"))


def test_progress_of_expanded_nodes_names_the_node_of_the_graph(engine: Driver) -> None:
    graph = {
        "1": graphs.node("Expands", color=0x0000FF),
        "2": graphs.node("SaveImage", images=["1", 0], filename_prefix="after"),
    }
    job = engine.start(graph)
    job.result()
    reported = {
        (event["node"], event["node_class"]) for event in job.events if "node_class" in event
    }
    assert reported == {(None, None), ("1", "Expands"), ("2", "SaveImage")}
    assert job.fractions == sorted(job.fractions)


def test_steps_that_are_not_numbers_do_not_fail_the_node(engine: Driver) -> None:
    job = engine.start(graphs.through("StepsOddly"))
    assert job.result()["status"] == "succeeded"
    assert job.fractions == sorted(job.fractions)


def test_cached_nodes_are_left_out_of_progress(engine: Driver) -> None:
    graph = graphs.through("Steps", steps=3)
    graph["1"]["inputs"]["color"] = 77
    engine.run(graph)
    job = engine.start(graph)
    job.result()
    assert {event["node"] for event in job.events if event["event"] == "progress"} == {None, "3"}
    assert job.fractions[-1] == 1.0


def test_nodes_that_no_output_needs_are_not_counted(engine: Driver) -> None:
    graph = {**graphs.hello(color=0x77), "9": graphs.node("ImageInvert", image=["1", 0])}
    job = engine.start(graph, output="3")
    done = job.result()
    assert "9" not in done["node_seconds"]
    assert job.fractions[-1] == 1.0


def test_each_node_that_ran_has_a_duration(engine: Driver) -> None:
    done, _ = engine.run(graphs.through("Steps", steps=20) | {"1": graphs.hello(5)["1"]})
    assert done["node_seconds"]["2"] >= 0.02
