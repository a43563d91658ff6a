"""What answers when model, method, preset or an option is chosen; and what the controls say together."""

from __future__ import annotations

import gradio as gr

from ...loading.held import Models
from ...methods import METHODS, Asked, Method
from ...methods.call import RECOMMENDED, SEED
from ...networks.stable_diffusion import StableDiffusion
from .chain import so_far
from .components import Shown
from .controls import chosen, looks, mattering, offered, values_of
from .layout import FIRST, Controls
from .saying import saying
from .session import Session
from .words import about, known_words, of_query, of_reference


class Choosing:
    """The answers that this file is about."""

    def __init__(self, controls: Controls, models: Models) -> None:
        self.controls, self.models = controls, models

    def tune_to_model(self, told: Shown) -> Shown:
        """What `tune` shows, if it was the model that was chosen: a method that it isn't made for gives way."""
        return self.tune(told, model_decides=True)

    @saying
    def tune(self, told: Shown, model_decides: bool = False) -> Shown:
        """The controls that this method has, with the values that hold for it with this model."""
        c, session = self.controls, told[self.controls.session]
        kept, held = session.kept, {key: told[control] for key, control in c.options.items()}
        model, method = self.fitting(told[c.model], METHODS[told[c.method]], model_decides)
        kept.notice(held)
        preset = kept.presets.get(method.name, RECOMMENDED)
        if method.name == kept.method and told[c.preset] not in (None, preset):         # just chosen
            preset = kept.presets[method.name] = told[c.preset]
            kept.own = {}
        kept.method = method.name
        shown = self.shown(session, model, method, preset, told[c.query])
        for control, value in ((c.model, model.name), (c.method, method.name)):
            if told[control] == value:      # sent back, it would undo what is chosen while this answer is on its way
                shown[control] = gr.skip()
        return {c.session: session, **shown}

    def shown(self, session: Session, model: StableDiffusion, method: Method, preset: str,
              query: str) -> Shown:
        """The controls of a method with a model and a preset. query: what is written there now."""
        c, kept, uses = self.controls, session.kept, method.uses
        options, holds = offered(method), values_of(method, method.settings(model, {}, preset))
        given = {key: kept.give(option, holds[key]) for key, option in options.items() if key in c.options}
        matter = mattering(method, given)
        updates = {c.options[key]: gr.update(visible=key in matter, **looks(options[key], value))
                   for key, value in given.items()}
        of_mask = {name for name, kind in c.of_mask & options.keys()}
        words, cells = session.words, (model.multiple, model.native_area, model.factor)
        fits, session.cells = session.cells in (None, cells), cells
        # Only words that were filled in are replaced: others may be typed while this answer is on its way.
        other_form = query in words.values() and words[method.needs_instruction] != query
        refilled = {"value": words[method.needs_instruction]} if other_form else {}
        return {
            c.canvas: gr.skip() if fits else gr.update(**session.as_canvas()),
            c.model: gr.update(value=model.name),
            c.method: gr.update(value=method.name),
            c.about: about(method),
            c.known_words: known_words(model.words),
            c.chain: so_far(method, session),
            c.query: gr.update(visible=method.takes_query, **of_query(method), **refilled),
            c.reference: gr.update(visible="reference" in uses, **of_reference(method)),
            # "hidden", not False: what is on the canvas would be lost.
            c.mask_part: gr.update(visible=bool(of_mask) or "mask" in uses or "hidden"),
            c.find: gr.update(visible="mask_map" in uses),
            c.painting: gr.update(visible="mask" in uses or "hidden"),
            c.around_part: gr.update(visible="mask" in uses),
            c.more_of_mask: gr.update(visible=not of_mask <= set(FIRST)),
            c.preset: gr.update(choices=method.preset_names, value=preset),
            **{control: updates.get(control, gr.update(visible=False)) for control in c.options.values()},
        }

    def put(self, session: Session, asked: Asked, name: str) -> Shown:
        """The controls as an earlier edit by a model of that name has them."""
        c, kept, model = self.controls, session.kept, self.models.get(name)
        kept.method, kept.presets[asked.method.name] = asked.method.name, asked.preset
        kept.own = values_of(asked.method, asked.settings(model))
        shown = self.shown(session, model, asked.method, asked.preset, asked.query)
        return {**shown, c.query: {**shown[c.query], "value": asked.query},
                c.reference: {**shown[c.reference], "value": asked.reference}, c.seed: asked.seed}

    def fitting(self, name: str, method: Method, model_decides: bool) -> tuple[StableDiffusion, Method]:
        """A model and a method that go together: where the ones that are chosen don't, the other one is changed."""
        model = self.models.get(name)
        if model.unet.config.in_channels != method.channels and not model_decides:
            others = map(self.models.get, self.models.names)
            model = next((other for other in others if other.unet.config.in_channels == method.channels), model)
        channels = model.unet.config.in_channels
        if channels != method.channels:
            method = next(other for other in METHODS.values() if other.channels == channels)
        return model, method

    def narrow(self, told: Shown) -> Shown:
        """Which options are seen, as the others stand now."""
        c, method = self.controls, METHODS[told[self.controls.method]]
        matter = mattering(method, {key: told[control] for key, control in c.options.items()})
        return {c.options[key]: gr.update(visible=key in matter) for key in offered(method) if key in c.options}

    def asked(self, told: Shown, model: StableDiffusion) -> Asked:
        """What the controls say. Raises ValueError for what can't be meant."""
        c, method, seed = self.controls, METHODS[told[self.controls.method]], told[self.controls.seed]
        if seed is None:
            raise ValueError("the seed is empty: give a whole number")
        settings = method.settings(model, {}, told[c.preset])
        held = {key: told[control] for key, control in c.options.items()}
        seed = int(seed) if isinstance(seed, float) and seed.is_integer() else seed
        return Asked(method, told[c.query] or "", told[c.reference] or "", SEED.checked(seed), preset=told[c.preset],
                     options=chosen(method, settings, held))
