"""Models are kept between workflows, preloaded, and do not leak memory."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver, NewDriver, paths_file, write_safetensors
from tests.server.engine.comfyui.trees import LATEST


def test_a_diffusion_graph_saves_a_picture(engine: Driver) -> None:
    done, job = engine.run(graphs.diffusion())
    assert done["status"] == "succeeded", done
    with Image.open(job.output / done["outputs"]["out"][0]["name"]) as image:
        assert image.size == (64, 64)


def test_pictures_are_the_same_for_the_same_seed_and_differ_for_others(engine: Driver) -> None:
    made = [engine.run(graphs.diffusion(seed=seed, text="pixels"))[1] for seed in (3, 4, 3)]
    pixels: list[bytes] = []
    for job in made:
        with Image.open(job.output / job.files()[0]) as image:
            pixels.append(image.tobytes())
    assert pixels[0] == pixels[2] != pixels[1]


def test_timings_say_how_long_a_run_loaded_sampled_and_stored(engine: Driver) -> None:
    engine.run(graphs.through("RunsOutOfMemory"))  # drops what is loaded
    done, _ = engine.run(graphs.diffusion(seed=15))
    timings = done["timings"]
    microsecond = 1e-6  # to which they are rounded
    assert timings["load_models"] + microsecond >= done["node_seconds"]["4"]
    assert timings["store"] + microsecond >= done["node_seconds"]["9"]
    assert sum(
        timings[stage] for stage in ("load_models", "sample", "store") if timings[stage]
    ) <= (timings["run"] + 3 * microsecond)
    done, _ = engine.run(graphs.diffusion(seed=16))
    assert done["timings"]["load_models"] < timings["load_models"]


def test_models_stay_loaded_while_other_workflows_run(engine: Driver) -> None:
    engine.run(graphs.diffusion(seed=20))
    for color in range(5):
        engine.run(graphs.hello(color=color))
    done, _ = engine.run(graphs.diffusion(seed=21))
    assert "4" not in done["node_seconds"]
    assert "3" in done["node_seconds"]


def test_an_invalid_graph_does_not_unload_the_models_of_the_previous_job(engine: Driver) -> None:
    engine.run(graphs.diffusion(seed=25))
    bad = {"4": graphs.node("SaveImage", filename_prefix="x")}
    assert engine.run(bad)[0]["error"]["code"] == "graph_invalid"
    done, _ = engine.run(graphs.diffusion(seed=26))
    assert "4" not in done["node_seconds"]


def test_after_running_out_of_memory_the_model_is_loaded_again(engine: Driver) -> None:
    engine.run(graphs.diffusion(seed=30))
    engine.run(graphs.through("RunsOutOfMemory"))
    done, _ = engine.run(graphs.diffusion(seed=31))
    assert done["status"] == "succeeded"
    assert "4" in done["node_seconds"]


def test_a_sampler_is_interrupted_at_a_step(engine: Driver) -> None:
    job = engine.start(graphs.diffusion(seed=40, steps=1000))
    job.until_step(2)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert engine.run(graphs.diffusion(seed=41))[0]["status"] == "succeeded"


def test_previews_are_jpegs_of_bounded_size_and_off_by_default(engine: Driver) -> None:
    job = engine.start(graphs.diffusion(seed=50), previews=True)
    job.result()
    shown = [event for event in job.events if event["event"] == "preview"]
    assert shown
    assert all(event["start"] == "ffd8ff" and event["size"] <= 64 * 1024 for event in shown)
    silent = engine.start(graphs.diffusion(seed=51))
    silent.result()
    assert not [event for event in silent.events if event["event"] == "preview"]


def test_preloaded_weights_are_reported_with_their_size(engine: Driver) -> None:
    ((path, size),) = engine.facts()["report"]["preloaded"].items()
    assert Path(path).resolve() == Path(path)
    assert 0 < size <= Path(path).stat().st_size


@pytest.fixture
def weights(new_driver: NewDriver, release: str, tmp_path: Path) -> tuple[Driver, Path]:
    """An engine that preloads a file, which tests may change."""
    driver = new_driver(release)
    paths = paths_file(release, tmp_path)
    loaded = driver.load(
        extra_model_paths=[str(paths)], preload=[f"checkpoints/{graphs.CHECKPOINT}"]
    )
    assert loaded == {"event": "loaded"}
    return driver, tmp_path / graphs.CHECKPOINT


def test_a_file_that_changed_since_the_snapshot_is_read_from_the_disk(
    weights: tuple[Driver, Path],
) -> None:
    driver, file = weights
    write_safetensors(file, {"other.weight": b"\2" * 8})
    assert driver.run(graphs.diffusion())[0]["status"] == "succeeded"
    assert "has changed since it was preloaded" in driver.log


def test_a_file_that_was_deleted_since_the_snapshot_fails_like_any_missing_file(
    weights: tuple[Driver, Path],
) -> None:
    driver, file = weights
    file.unlink()
    done, _ = driver.run(graphs.diffusion())
    assert done["error"]["code"] == "graph_invalid"


def test_a_link_to_a_preloaded_file_loads_it_repeatedly(
    weights: tuple[Driver, Path],
) -> None:
    driver, file = weights
    file.with_name("link.safetensors").symlink_to(file)
    for name in (graphs.CHECKPOINT, "link.safetensors"):
        graph = graphs.diffusion()
        graph["4"]["inputs"]["ckpt_name"] = name
        assert driver.run(graph)[0]["status"] == "succeeded"
    assert "read from the disk" not in driver.log


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("checkpoints/none.safetensors", None),
        ("checkpoints/broken.safetensors", b"\xff" * 64),
        ("checkpoints/short.safetensors", b"\x02\0\0\0\0\0\0\0{}"[:5]),
        ("checkpoints/pickle.ckpt", b"\x80\x04"),
        ("no_such_kind/x.safetensors", None),
        ("x.safetensors", None),
    ],
)
def test_a_file_that_cannot_be_preloaded_fails_the_load(
    new_driver: NewDriver, tmp_path: Path, entry: str, content: bytes | None
) -> None:
    paths = paths_file(LATEST, tmp_path)
    if content is not None:
        (tmp_path / entry.partition("/")[2]).write_bytes(content)
    answer = new_driver().load(extra_model_paths=[str(paths)], preload=[entry])
    assert answer.get("kind") == "PreloadError", answer


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 6]},
        {"dtype": "F16", "shape": [400], "data_offsets": [0, 800]},
        {"dtype": "F16", "shape": [-1], "data_offsets": [0, -2]},
        {"dtype": "F99", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0, float("inf")]},
        {"dtype": "F16", "shape": [4.0], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0, "8"]},
        {"dtype": "F16", "shape": [float("nan")], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4]},
        [],
    ],
)
def test_a_tensor_with_invalid_offsets_is_rejected(
    new_driver: NewDriver, tmp_path: Path, entry: object
) -> None:
    text = json.dumps({"a": entry}).encode()
    paths = paths_file(LATEST, tmp_path)
    file = tmp_path / "odd.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    driver = new_driver()
    answer = driver.load(extra_model_paths=[str(paths)], preload=["checkpoints/odd.safetensors"])
    assert answer.get("kind") == "PreloadError", answer


TENSOR = '{"dtype": "F16", "shape": [4], "data_offsets": [%d, %d]}'


@pytest.mark.parametrize(
    "header",
    [
        f'{{"a": {TENSOR % (0, 8)}, "b": {TENSOR % (4, 12)}}}',
        f'{{"a": {TENSOR % (0, 8)}, "b": {TENSOR % (0, 8)}}}',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        f'{{"a": {TENSOR % (0, 8)}, "__metadata__": {{"x": Infinity}}}}',
    ],
    ids=["overlapping", "twice", "nested", "infinity"],
)
def test_a_header_that_the_format_forbids_is_rejected(
    new_driver: NewDriver, tmp_path: Path, header: str
) -> None:
    paths = paths_file(LATEST, tmp_path)
    file = tmp_path / "odd.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 16)
    driver = new_driver()
    answer = driver.load(extra_model_paths=[str(paths)], preload=["checkpoints/odd.safetensors"])
    assert answer.get("kind") == "PreloadError", answer


def some_graph(chosen: random.Random) -> graphs.Graph:
    seed = chosen.randrange(2**31)
    match chosen.choice(["hello", "steps", "diffusion"]):
        case "hello":
            return graphs.hello(color=seed % 0xFFFFFF)
        case "steps":
            return graphs.through("Steps", steps=1 + seed % 9)
        case _:
            return graphs.diffusion(seed=seed, text=f"a fox {seed % 7}", steps=1)


@pytest.mark.timeout(600)
def test_memory_stays_flat_over_two_hundred_jobs_of_three_workflows(engine: Driver) -> None:
    chosen = random.Random(5)
    resident: dict[int, int] = {}
    for number in range(1, 201):
        done, job = engine.run(some_graph(chosen))
        assert done["status"] == "succeeded", (number, done)
        assert job.files() == [file["name"] for file in done["outputs"]["out"]]
        if number in (20, 200):
            resident[number] = engine.facts()["rss_kb"]
    assert resident[200] <= resident[20] * 1.05, resident
