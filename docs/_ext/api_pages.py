"""Pages of the API: the public names by topic, each with a page of its own, and every module by its room."""

import ast

from markdown_text import cell
from modules import Module, find_public

import speech_jax

TOPICS = {
    "Models": (
        "conformer_ctc conformer_encoder wav2vec2_ctc crnn_ctc tacotron2 wavenet "
        "ConformerConfig Tacotron2Config WaveNetConfig Model"
    ),
    "Losses and their mix": "mix combine_gradients AlphaConfig ctc_loss guided_attention_loss LossOut",
    "Audio and features": "read_audio extract_features spec_augment mel_to_wave AudioConfig AugmentConfig",
    "Text": "Tokenizer train_tokenizer make_front_end",
    "Recordings and batches": "read_manifest Utterance Utterances DataConfig SourceConfig PlanConfig Bucket",
    "Training": (
        "fit TrainConfig TrainerConfig OptimizerConfig AdapterConfig EvalConfig Task CTCTaskConfig PretrainTaskConfig "
        "Tacotron2TaskConfig WaveNetTaskConfig"
    ),
    "Recognition": "load_recognizer Recognizer CTCRecognizer BeamConfig greedy_decode wer cer",
    "Voices and vocoders": "load_voice Voice load_vocoder WaveNetVocoder",
    "Errors": "UserError",
}


def pages() -> dict[str, str]:
    """Return {file below reference/generated/: text}."""
    modules = find_public()
    return {
        "api.md": topics_page(),
        "modules.md": modules_page(modules),
        **{f"api/{name}.rst": name_page(name) for name in speech_jax.__all__},
        **{f"modules/{module.name}.rst": module_page(module) for module in modules},
    }


def topics_page() -> str:
    """Return the page of the public API: a table per topic."""
    lines = ["# Public API", "", "All of these are imported from `speech_jax`, such as `from speech_jax import mix`."]
    listed = [name for names in TOPICS.values() for name in names.split()]
    if sorted(listed) != sorted(speech_jax.__all__):
        different = sorted(set(listed) ^ set(speech_jax.__all__))
        raise ValueError(f"TOPICS: found {different} in it or in speech_jax.__all__ only, expected the same names")
    for topic, names in TOPICS.items():
        lines += ["", f"## {topic}", "", "| name | summary |", "|---|---|"]
        lines += [f"| [{name}](api/{name}.rst) | {summary(name)} |" for name in names.split()]
    return "\n".join(lines) + "\n"


def summary(name: str) -> str:
    """Return the first sentence of a public name's docstring, without importing its module."""
    module = next(m for m in find_public() if m.name == speech_jax._MODULES[name])
    tree = ast.parse(module.path.read_bytes())
    node = next(n for n in tree.body if getattr(n, "name", "") == name)
    return cell((ast.get_docstring(node) or "").partition("\n\n")[0])


def name_page(name: str) -> str:
    """Return the page of a public name."""
    module = next(m for m in find_public() if m.name == speech_jax._MODULES[name])
    source = f":doc:`{module.name} </reference/generated/modules/{module.name}>`"
    back = f"From :doc:`the public API </reference/generated/api>`; defined in {source}."
    return "\n".join([":orphan:", "", *title(name), back, "", *directive(module, name)])


def directive(module: Module, name: str) -> list[str]:
    """Return the lines that describe a class or function."""
    kind, options = ("autoclass", ["   :members:"]) if name in module.classes else ("autofunction", [])
    return [f".. {kind}:: {module.place(name)}", *options, ""]


def modules_page(modules: tuple[Module, ...]) -> str:
    """Return the page of all modules: a table per room."""
    lines = ["---", "nosearch: true", "---", "", "# All modules", ""]
    lines += ["Names outside the [public API](api.md) can change with any version."]
    for room in sorted({module.room for module in modules}):
        lines += ["", f"## {room_title(room)}", "", "| module | summary |", "|---|---|"]
        inside = [module for module in modules if module.room == room]
        lines += [f"| [{m.name}](modules/{m.name}.rst) | {cell(m.summary)} |" for m in inside]
    return "\n".join(lines) + "\n"


def room_title(room: str) -> str:
    """Return the heading of a room: its folder's name."""
    return room or "Front doors and the top level"


def module_page(module: Module) -> str:
    """Return the page of a module, with links to those of its names that the package exports."""
    lines = [":orphan:", ":nosearch:", "", *title(module.name)]
    lines += ["From :doc:`all modules </reference/generated/modules>`.", ""]
    lines += [f".. automodule:: {module.name}", ""]
    public = [name for name in module.names if module.place(name) == f"speech_jax.{name}"]
    if public and module.name != "speech_jax":
        links = ", ".join(f":doc:`{name} </reference/generated/api/{name}>`" for name in public)
        lines += [f"On pages of their own: {links}.", ""]
    for name in module.names:
        lines += directive(module, name) if name not in public else []
    return "\n".join(lines)


def title(text: str) -> list[str]:
    """Return the lines of a page's title."""
    return [text, "=" * len(text), ""]
