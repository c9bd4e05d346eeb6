"""What a net is worth: ``evaluate``, and the ``Evaluator`` that rank rules measure with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ..errors import UsageError, suggest
from ..net.transform import read_transform
from .model import Model, Progress, stage_of

if TYPE_CHECKING:
    from ..data.images import Images, Preprocessing
    from ..surgery.plan import Plan
    from ..verify.decomposed import Case
    from ..verify.subject import Subject

METRICS = ("top1", "top5", "loss", "agreement")


class Evaluator:
    """Evaluates nets on labelled images in ONNX Runtime; called with a model it gives metrics.

        with caffesurgery.Evaluator("train.npz", samples=2000) as evaluator:
            print(evaluator(model)["top1"])
            plan = caffesurgery.plan(model, "spatial", "drop=0.01", evaluate=evaluator)

    images, labels: an array, a .npy or .npz, a folder of image files, an LMDB, or a prototxt, which
        means its data layer (see ``help data``); None is the data layer of each net itself
    phase: whose data layer that is; 'TRAIN' for what rank rules look at
    metric: what rules look at, one of 'top1', 'top5', 'loss', 'agreement' (with the net as it is)
    blob: the output with a score for each class, where the net has several outputs
    mean, scale, bgr, crop: as ``compare`` takes them; without mean, scale and crop the net's own
        transform_param counts, or that of the prototxt ``transform``
    resize: (height, width) to which image files are brought; samples: use the first so many images
    jobs: worker processes, by default one for each processor; dask: address of a scheduler instead
    cache: folder for what was measured; True is the user's cache folder, None keeps nothing
    """

    def __init__(
        self,
        images=None,
        labels=None,
        metric: str = "top1",
        *,
        blob: str = "",
        mean=None,
        scale: float | None = None,
        bgr: bool = False,
        crop: bool = False,
        transform=None,
        resize: tuple[int, int] | None = None,
        samples: int | None = None,
        jobs: int | None = None,
        dask: str | None = None,
        cache=True,
        phase: str = "TEST",
    ):
        from ..data.images import open_images
        from ..verify.cache import MetricsCache, default_folder

        if metric not in METRICS:
            raise UsageError(f"unknown metric '{metric}'; {suggest(metric, METRICS)}")
        self.metric = metric
        self._options = {"mean": mean, "scale": scale, "bgr": bgr, "crop": crop}
        self._transform = transform
        self._blob = blob
        self._jobs, self._dask = jobs, dask
        self._cache = MetricsCache(default_folder() if cache is True else cache or None)
        self._cache.check(required=cache is not True)
        resize = resize_of(resize, transform)
        self._given = images, labels
        self._samples, self._phase = samples, phase
        self._images = None
        if images is not None:
            self._images = self._checked(open_images(images, labels, resize, phase))
        elif labels is not None:
            raise UsageError("labels without images; give the images that they belong to")
        self._workers = None
        self._stack = ExitStack()
        self._measurers: dict = {}

    def __enter__(self) -> Evaluator:
        from ..workers import open_workers

        self._workers = self._stack.enter_context(open_workers(self._jobs, self._dask))
        return self

    def __exit__(self, *error) -> None:
        self._workers = None
        self._measurers.clear()
        self._stack.close()

    def __call__(self, model: Model, progress: Progress | None = None) -> dict:
        """Metrics of a model as a documented dict; nothing is asked of the workers."""
        from ..report import evaluation_report
        from ..verify.evaluate import check_subject, evaluate

        subject, source = self._subject(model, 0)
        check_subject(subject)
        known = self._cache.get(subject.digest, ())
        if not known:
            told = stage_of(progress, "evaluate")
            tell = (lambda done, all_: told(f"{done} of {all_}", done / all_)) if told else None
            known = evaluate(subject, threads=self._jobs, progress=tell)[0]
            self._cache.put(subject.digest, (), known)
        return evaluation_report(model.name, subject, source, known.metrics)

    def scores(
        self, model: Model, plans: Sequence[Plan], progress: Progress | None = None
    ) -> list[float]:
        """The metric of the model as each plan would make it, as a number up to 1, all at once.

        For the loss it is exp(-loss), so that higher is better with every metric.
        """
        with self.opened():
            cases = [_case(plan, model) for plan in plans]
            seed = plans[0].seed if plans else 0
            found = self._measurer(model, seed).measure(cases, stage_of(progress, "evaluate"))
        return [metrics.score(self.metric) for metrics in found]

    def made_from(self) -> tuple[tuple[str, str], ...]:
        """(Name, SHA-256) of the images and the labels, as far as they came from files.

        Of a folder it is the SHA-256 of what ``sha256sum`` lists of its images, by their order.
        """
        from ..data.images import digests

        return digests(*self._given)

    @contextmanager
    def opened(self) -> Iterator:
        """Workers for as long as the block takes, unless they are there already."""
        if self._workers is not None:
            yield self._workers
            return
        with self:
            yield self._workers

    def _measurer(self, model: Model, seed: int):
        from ..verify.evaluate import check_subject
        from ..verify.measure import Measurer

        key = (id(model), seed)
        if key not in self._measurers:
            subject, _ = self._subject(model, seed)
            check_subject(subject)
            self._measurers[key] = Measurer(subject, self._workers, self._cache)
        return self._measurers[key]

    def _subject(self, model: Model, seed: int) -> tuple[Subject, str]:
        from ..data.layer_images import layer_images
        from ..verify.subject import Subject
        from ..verify.weights import stored_weights

        images = self._images or self._checked(layer_images(model.net, self._phase))
        prepare, source = preprocessing(model, images, self._options, self._transform)
        doc = model.net.doc
        weights = stored_weights(model.require_weights())
        subject = Subject(
            doc.text, doc.path, weights, images, prepare, self._blob, model.inputs, seed
        )
        return subject, source

    def _checked(self, images: Images) -> Images:
        """As many images as are wanted, with the labels that the metric needs."""
        images = images.first(self._samples)
        if self.metric != "agreement" and images.labels is None:
            raise UsageError(
                f"metric {self.metric}: it needs labels, and {images.name} comes without; give "
                "--labels, or take --metric agreement, which needs none"
            )
        return images


def preprocessing(
    model: Model, images: Images, options: Mapping, transform=None
) -> tuple[Preprocessing, str]:
    """How images are prepared for a model, and who says so.

    options: 'mean', 'scale', 'bgr' and 'crop' as ``Evaluator`` takes them; transform: the prototxt
    whose data layer counts without them.  UsageError for images that are prepared already.
    """
    from ..data.images import Preprocessing
    from ..files.mean import load_mean

    mean, scale, bgr, crop = (options[name] for name in ("mean", "scale", "bgr", "crop"))
    if images.prepared:
        said = {**options, "transform": transform}
        idle = [name for name, value in said.items() if value not in (None, False)]
        if idle:
            raise UsageError(
                f"--{idle[0]}: {images.prepared} prepares its images already; leave it out"
            )
        return Preprocessing(), images.prepared
    if mean is not None or scale is not None or crop:
        return Preprocessing(load_mean(mean), scale or 1.0, bgr, crop), "options"
    found = read_transform(model.net) if transform is None else _transform_of(transform)
    if found is None:
        return Preprocessing(bgr=bgr), ""
    mean = load_mean(found.mean_path() or found.mean_values or None)
    return Preprocessing(mean, found.scale, bgr, bool(found.crop)), found.where


def resize_of(resize: tuple[int, int] | None, transform) -> tuple[int, int] | None:
    """The size that image files are brought to: ``resize``, or what a data layer says."""
    return _transform_of(transform).resize if resize is None and transform is not None else resize


def data_shapes(prototxt) -> dict[str, tuple[int, ...]]:
    """Shapes, by blob, of what the data layers of a net's TEST phase give; {} without such layers.

    For ``load(prototxt, weights, inputs=data_shapes(prototxt))``, as a database's images are not
    described in the prototxt.  Raises DataError that names path, layer and line of missing data.
    """
    from ..data.layer_images import layer_shapes
    from ..net.net import read_net

    return layer_shapes(read_net(prototxt))


def evaluate(
    model: Model, images=None, labels=None, *, progress: Progress | None = None, **options
):
    """Accuracy and loss of a model on labelled images, as a documented dict.

    images, labels and options as ``Evaluator`` takes them; without images, on those of the net's
    own data layer.  Raises DataError and VerifyError for
    images, labels or a net that do not fit together.
    """
    return Evaluator(images, labels, **options)(model, progress)


def plan_evaluator(model: Model, evaluate, progress: Progress | None):
    """What rank rules measure with: plans to scores; None without ``evaluate``.

    ``evaluate`` is an Evaluator, or any function from a model to a score or to metrics that have
    'score' or 'top1'.
    """
    if evaluate is None:
        return None
    if isinstance(evaluate, Evaluator):
        return _Scores(evaluate, model, progress)
    return lambda plans: [_scored(model, plan, evaluate) for plan in plans]


class _Scores:
    """What an Evaluator says of plans; it knows whether it was asked, as not every rule does."""

    def __init__(self, evaluator: Evaluator, model: Model, progress: Progress | None):
        self._evaluator, self._model, self._progress = evaluator, model, progress
        self._asked = False

    def __call__(self, plans: Sequence[Plan]) -> list[float]:
        self._asked = True
        return self._evaluator.scores(self._model, plans, self._progress)

    def made_from(self) -> tuple[tuple[str, str], ...]:
        return self._evaluator.made_from() if self._asked else ()


@contextmanager
def plan_workers(evaluate, jobs: int | None, dask: str | None) -> Iterator:
    """The workers of an Evaluator, or others where there is none."""
    from ..workers import open_workers

    if isinstance(evaluate, Evaluator):
        with evaluate.opened() as workers:
            yield workers
    else:
        with open_workers(jobs, dask) as workers:
            yield workers


def _scored(model: Model, plan: Plan, evaluate: Callable) -> float:
    """What a user's own function says of the net that a plan makes."""
    import tempfile

    from .save import save
    from .surgery import apply

    if not plan.layers:
        return _score(evaluate(model))
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
        return _score(evaluate(save(apply(model, plan), folder)))


def _score(found) -> float:
    if isinstance(found, Mapping):
        found = found.get("score", found.get("top1"))
    try:
        return float(found)
    except (TypeError, ValueError):
        raise UsageError(
            f"the evaluation of a net gave {found!r}; expected a number, or a dict with 'score' or "
            "'top1'"
        ) from None


def _transform_of(path):
    from ..net.net import read_net

    found = read_transform(read_net(path))
    if found is None:
        raise UsageError(
            f"{path}: none of its data layers has a transform_param; give --mean, --scale and "
            "--crop instead"
        )
    return found


def _case(plan: Plan, model: Model) -> Case:
    """The plan's layers as the evaluation takes them, in the order of the net."""
    from ..surgery.aims import aim_of
    from ..verify.decomposed import Cut

    order = {entry.layer.name: index for index, entry in enumerate(model.shapes.layers)}
    layers = sorted(plan.layers, key=lambda layer: order[layer.name])
    aims = [aim_of(layer, plan) for layer in layers]
    return tuple(
        Cut(layer.name, layer.scheme, tuple(layer.ranks), aim.effort, aim.max_norm)
        for layer, aim in zip(layers, aims)
    )
