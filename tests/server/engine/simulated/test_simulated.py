"""The simulated engine runs real graphs, and draws a card where a model is needed."""

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.wire.jobs import JobStatus, Progress, Timings
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.engine.protocol import Engine, EngineJob, PreviewFrame
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.jobs.run import JobEnd, execute
from tests.server.engine.conftest import MakeJob, RunGraph

IMAGES = {"images": OutputSpec(node="9", kind=Kind.IMAGE, many=True)}


def run_to_end(engine: Engine, job: EngineJob) -> JobEnd:
    return execute(engine, job, lambda _event: None).end(Timings(), Progress())


def txt2img(**sampler: Any) -> Graph:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["1", 1]}},
        "4": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 320, "height": 192, "batch_size": 2},
        },
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 7, "steps": 6, "cfg": 1.0, "denoise": 1.0, "sampler_name": "euler",
                "scheduler": "simple", "model": ["1", 0], "positive": ["2", 0],
                "negative": ["3", 0], "latent_image": ["4", 0], **sampler,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "fox"}},
    }  # fmt: skip


def image_at(outcome: JobEnd, job_output: Path, index: int = 0) -> Image.Image:
    files: Any = (outcome.outputs or {})["images"]
    return Image.open(job_output / files[index]["name"]).convert("RGB")


def saved(*nodes: tuple[str, dict[str, Any]]) -> Graph:
    """A chain of nodes ``0``, ``1``, ...; the last one is saved as ``9``."""
    graph: Graph = {str(i): {"class_type": c, "inputs": v} for i, (c, v) in enumerate(nodes)}
    last = str(len(nodes) - 1)
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": [last, 0]}}
    return graph


def red(width: int = 40, height: int = 20) -> tuple[str, dict[str, Any]]:
    return "EmptyImage", {"width": width, "height": height, "batch_size": 1, "color": 0xFF0000}


def test_a_diffusion_graph_draws_pictures_of_the_latents_size(
    engine: Engine, make_job: MakeJob
) -> None:
    job = make_job(txt2img(), IMAGES)
    outcome = run_to_end(engine, job)
    assert outcome.status is JobStatus.SUCCEEDED
    files: Any = (outcome.outputs or {})["images"]
    assert [file["name"] for file in files] == ["fox_00001_.png", "fox_00002_.png"]
    assert files[0]["url"] == f"/outputs/{job.job_id}/fox_00001_.png"
    assert files[0]["content_type"] == "image/png"
    assert files[0]["size"] == (job.output_dir / "fox_00001_.png").stat().st_size
    assert image_at(outcome, job.output_dir).size == (320, 192)
    assert set(outcome.timings.nodes) == {"1", "2", "3", "4", "5", "6", "9"}


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(
    engine: Engine, make_job: MakeJob
) -> None:
    hashes: list[str] = []
    for seed in (7, 7, 8):
        outcome = run_to_end(engine, make_job(txt2img(seed=seed), IMAGES))
        files: Any = (outcome.outputs or {})["images"]
        hashes.append(files[0]["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_every_step_is_reported_and_the_fraction_never_decreases(run_graph: RunGraph) -> None:
    events: list[Progress] = []
    run_graph(txt2img(), IMAGES, events.append)
    assert [p.step for p in events if p.node == "5" and p.step][:6] == [1, 2, 3, 4, 5, 6]
    assert [p.fraction for p in events] == sorted(p.fraction for p in events)
    assert events[-1].fraction == 1.0


def test_previews_are_sent_only_if_requested(run_graph: RunGraph) -> None:
    events: list[object] = []
    run_graph(txt2img(), IMAGES, events.append)
    assert not [frame for frame in events if isinstance(frame, PreviewFrame)]
    run_graph(txt2img(), IMAGES, events.append, previews=True)
    frames = [frame for frame in events if isinstance(frame, PreviewFrame)]
    assert len(frames) == 6
    assert frames[0].data.startswith(b"\xff\xd8")
    assert frames[0].node == "5"


def test_advanced_samplers_split_the_steps(run_graph: RunGraph) -> None:
    graph = txt2img(start_at_step=4, end_at_step=10000)
    graph["5"]["class_type"] = "KSamplerAdvanced"
    events: list[Progress] = []
    run_graph(graph, IMAGES, events.append)
    assert {p.steps for p in events if p.node == "5" and p.steps} == {2}


def test_image_nodes_are_computed(engine: Engine, make_job: MakeJob) -> None:
    cases: list[tuple[Graph, tuple[int, int], tuple[int, int, int]]] = [
        (saved(red()), (40, 20), (255, 0, 0)),
        (saved(red(), ("ImageInvert", {"image": ["0", 0]})), (40, 20), (0, 255, 255)),
        (
            saved(red(), ("ImageScale", {"image": ["0", 0], "width": 80, "height": 0})),
            (80, 40),
            (255, 0, 0),
        ),
        (
            saved(red(), ("ImageScaleBy", {"image": ["0", 0], "scale_by": 0.5})),
            (20, 10),
            (255, 0, 0),
        ),
        (
            saved(red(), ("ImageCrop", {"image": ["0", 0], "width": 9, "height": 9, "x": 35})),
            (5, 9),
            (255, 0, 0),
        ),
        (
            saved(red(), ("ImageRotate", {"image": ["0", 0], "rotation": "90 degrees"})),
            (20, 40),
            (255, 0, 0),
        ),
        (
            saved(
                red(),
                ("EmptyImage", {"width": 4, "height": 4, "color": 0x0000FF}),
                ("ImageBlend", {"image1": ["0", 0], "image2": ["1", 0], "blend_factor": 0.5}),
            ),
            (40, 20),
            (127, 0, 127),
        ),
        (
            saved(
                ("SolidMask", {"value": 1.0, "width": 8, "height": 6}),
                ("InvertMask", {"mask": ["0", 0]}),
                ("MaskToImage", {"mask": ["1", 0]}),
            ),
            (8, 6),
            (0, 0, 0),
        ),
    ]
    for graph, size, color in cases:
        job = make_job(graph, IMAGES)
        outcome = run_to_end(engine, job)
        assert outcome.error is None
        image = image_at(outcome, job.output_dir)
        assert image.size == size
        assert image.getpixel((0, 0)) == color


def test_an_input_image_keeps_its_pixels_and_its_alpha_becomes_the_mask(
    engine: Engine, make_job: MakeJob, tmp_path: Path
) -> None:
    Image.new("RGBA", (6, 4), (10, 20, 30, 0)).save(tmp_path / "in.png")
    graph = saved(("LoadImage", {"image": "in.png"}), ("MaskToImage", {"mask": ["0", 1]}))
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0]}}
    outputs = {**IMAGES, "plain": OutputSpec(node="8")}
    job = make_job(graph, outputs, input_dir=tmp_path)
    outcome = run_to_end(engine, job)
    assert image_at(outcome, job.output_dir).getpixel((0, 0)) == (255, 255, 255)
    plain: Any = (outcome.outputs or {})["plain"]
    assert Image.open(job.output_dir / plain["name"]).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"not an image", "in.png"),
        (None, "in.png"),
        (None, "../secret.png"),
        (None, "/etc/hostname"),
    ],
)
def test_an_unreadable_image_fails_the_job_and_names_field_class_and_title(
    run_graph: RunGraph, tmp_path: Path, content: bytes | None, name: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    if content is not None:
        (folder / name).write_bytes(content)
    graph = saved(("LoadImage", {"image": name}))
    graph["0"]["_meta"] = {"title": "Photo"}
    outcome = run_graph(graph, IMAGES, input_dir=folder, fields={"0.inputs.image": "photo"})
    assert outcome.status is JobStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.NODE_FAILED
    finding = outcome.error.fields[0]
    assert (finding.field, finding.node) == ("photo", "0")
    assert "Photo" in finding.message
    assert "LoadImage" in finding.message


@pytest.mark.parametrize("kind", ["PCX", "DDS", "XBM", "EPS"])
def test_only_common_formats_are_opened_whatever_the_name_says(
    run_graph: RunGraph, tmp_path: Path, kind: str
) -> None:
    mode = "1" if kind == "XBM" else "RGB"
    Image.new(mode, (8, 8)).save(tmp_path / "in.png", format=kind)
    outcome = run_graph(saved(("LoadImage", {"image": "in.png"})), IMAGES, input_dir=tmp_path)
    assert outcome.error is not None
    assert "not a readable image" in outcome.error.fields[0].message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_common_formats_are_opened(run_graph: RunGraph, tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "in", format=kind)
    outcome = run_graph(saved(("LoadImage", {"image": "in"})), IMAGES, input_dir=tmp_path)
    assert outcome.status is JobStatus.SUCCEEDED


def test_a_decompression_bomb_fails_before_it_is_decoded(
    run_graph: RunGraph, tmp_path: Path
) -> None:
    Image.new("1", (14000, 14000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    outcome = run_graph(saved(("LoadImage", {"image": "bomb.png"})), IMAGES, input_dir=tmp_path)
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.NODE_FAILED


def test_a_field_behind_a_link_is_named_too(run_graph: RunGraph) -> None:
    graph = saved(
        ("PrimitiveInt", {"value": 99999}), ("EmptyImage", {"width": ["0", 0], "height": 8})
    )
    outcome = run_graph(graph, IMAGES, fields={"0.inputs.value": "width"})
    assert outcome.error is not None
    assert outcome.error.fields[0].field == "width"


@pytest.mark.parametrize(
    "graph",
    [
        {"1": {"class_type": "EmptyImage", "inputs": {}}},
        saved(("ImageInvert", {"image": ["77", 0]})),
        saved(("ImageInvert", {})),
        saved(("ImageInvert", {"image": ["1", 0]}), ("ImageInvert", {"image": ["0", 0]})),
        saved(("ImageInvert", {"image": ["0", 0]})),
    ],
    ids=["no output", "missing node", "missing input", "cycle", "self"],
)
def test_a_graph_that_cannot_run_is_rejected_before_any_node_runs(
    run_graph: RunGraph, graph: Graph
) -> None:
    outcome = run_graph(graph, IMAGES)
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.GRAPH_INVALID
    assert outcome.timings.nodes == {}


@pytest.mark.parametrize(
    ("node", "kind", "magic", "content_type"),
    [
        ("SaveAnimatedWEBP", Kind.ANIMATION, b"RIFF", "image/webp"),
        ("SaveAnimatedPNG", Kind.ANIMATION, b"\x89PNG", "image/png"),
        ("SaveWEBM", Kind.VIDEO, b"\x1a\x45\xdf\xa3", "video/webm"),
        ("VHS_VideoCombine", Kind.VIDEO, b"\x1a\x45\xdf\xa3", "video/webm"),
        ("SaveAudio", Kind.AUDIO, b"RIFF", "audio/wav"),
        ("SaveGLB", Kind.MODEL_3D, b"glTF", "model/gltf-binary"),
        ("SomebodysImageSaver", Kind.IMAGE, b"\x89PNG", "image/png"),
        ("SomebodysFileSaver", Kind.FILE, b"{", "application/json"),
    ],
)
def test_an_output_node_saves_a_file_of_the_right_kind(
    engine: Engine, make_job: MakeJob, node: str, kind: Kind, magic: bytes, content_type: str
) -> None:
    graph = txt2img()
    graph["4"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 64, "height": 48, "length": 5, "batch_size": 1},
    }
    graph["9"] = {"class_type": node, "inputs": {"images": ["6", 0], "fps": 8}}
    job = make_job(graph, {"made": OutputSpec(node="9", kind=kind)})
    outcome = run_to_end(engine, job)
    assert outcome.error is None
    made: Any = (outcome.outputs or {})["made"]
    assert (made["kind"], made["content_type"]) == (kind, content_type)
    assert (job.output_dir / made["name"]).read_bytes().startswith(magic)


def test_frames_of_a_video_node_are_images(engine: Engine, make_job: MakeJob) -> None:
    graph = txt2img()
    inputs: dict[str, Any] = {"images": ["6", 0], "format": "video/8bit-png"}
    graph["9"] = {"class_type": "VHS_VideoCombine", "inputs": inputs}
    job = make_job(graph, {"made": OutputSpec(node="9", kind=Kind.IMAGE)})
    made: Any = (run_to_end(engine, job).outputs or {})["made"]
    assert made["content_type"] == "image/png"


@pytest.mark.parametrize(
    ("node", "kind"),
    [("SaveImage", Kind.IMAGE), ("SaveWEBM", Kind.VIDEO), ("SaveGLB", Kind.MODEL_3D)],
)
def test_files_contain_a_note_that_no_model_ran(
    engine: Engine, make_job: MakeJob, node: str, kind: Kind
) -> None:
    graph = txt2img()
    graph["9"] = {"class_type": node, "inputs": {"images": ["6", 0]}}
    job = make_job(graph, {"made": OutputSpec(node="9", kind=kind)})
    outcome = run_to_end(engine, job)
    made: Any = (outcome.outputs or {})["made"]
    assert b"simulated: no model ran" in (job.output_dir / made["name"]).read_bytes()


def test_an_animation_has_as_many_frames_as_the_latent(engine: Engine, make_job: MakeJob) -> None:
    graph = txt2img()
    graph["4"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 64, "height": 48, "length": 5, "batch_size": 1},
    }
    graph["9"] = {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["6", 0], "fps": 8}}
    job = make_job(graph, {"video": OutputSpec(node="9", kind=Kind.ANIMATION)})
    outcome = run_to_end(engine, job)
    video: Any = (outcome.outputs or {})["video"]
    with Image.open(job.output_dir / video["name"]) as image:
        assert getattr(image, "n_frames", 1) == 5
        assert image.size == (64, 48)


def test_text_and_json_outputs_are_values(run_graph: RunGraph) -> None:
    graph: Graph = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "a fox"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "SomebodysTagger", "inputs": {"text": ["1", 0]}},
        "4": {"class_type": "SomebodysSink", "inputs": {"source": ["3", 0]}},
    }
    outputs = {
        "text": OutputSpec(node="2", kind=Kind.TEXT),
        "texts": OutputSpec(node="2", kind=Kind.TEXT, many=True),
        "tags": OutputSpec(node="4", kind=Kind.JSON),
    }
    outcome = run_graph(graph, outputs)
    assert outcome.outputs is not None
    assert outcome.outputs["text"] == "a fox"
    assert outcome.outputs["texts"] == ["a fox"]
    tags: Any = outcome.outputs["tags"]
    assert tags["simulated"] is True


def test_an_output_node_of_the_wrong_kind_is_output_missing(run_graph: RunGraph) -> None:
    graph: Graph = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "a fox"}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    outcome = run_graph(graph, IMAGES)
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.OUTPUT_MISSING
    assert outcome.error.fields[0].node == "9"


def test_a_prefix_with_folders_cannot_leave_the_jobs_folder(
    engine: Engine, make_job: MakeJob
) -> None:
    graph = saved(red())
    graph["9"]["inputs"]["filename_prefix"] = "../../../../tmp/evil"
    job = make_job(graph, IMAGES)
    run_to_end(engine, job)
    assert [path.name for path in job.output_dir.iterdir()] == ["evil_00001_.png"]


def test_an_interrupt_before_the_start_is_not_lost(engine: Engine, make_job: MakeJob) -> None:
    job, other = make_job(txt2img(), IMAGES), make_job(txt2img(), IMAGES)
    engine.interrupt(job.job_id)
    assert run_to_end(engine, other).status is JobStatus.SUCCEEDED
    assert run_to_end(engine, job).status is JobStatus.CANCELLED


def test_an_interrupt_stops_a_running_job_at_its_step(make_job: MakeJob) -> None:
    engine = make_engine("simulated", {"step_seconds": 60})
    job = make_job(txt2img(), IMAGES)
    sampling = threading.Event()

    def report(event: object) -> None:
        if isinstance(event, Progress) and event.node == "5":
            sampling.set()

    def interrupt() -> None:
        assert sampling.wait(20)
        engine.interrupt(job.job_id)

    helper = threading.Thread(target=interrupt)
    helper.start()
    outcome = execute(engine, job, report)
    helper.join()
    assert outcome.status is JobStatus.CANCELLED
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.JOB_CANCELLED
    assert (outcome.timings.run or 0) < 20


def test_a_batch_that_would_not_fit_into_memory_is_rejected(run_graph: RunGraph) -> None:
    outcome = run_graph(
        saved(("EmptyImage", {"width": 8192, "height": 8192, "batch_size": 4096})), IMAGES
    )
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.NODE_FAILED
