"""``@task.evoimage``: a function returns a prompt or request fields, and its task makes the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.definitions.context import context_merge

from airflow_provider_evoimage.arguments import storable_argument
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError
from airflow_provider_evoimage.mapped_names import DEFAULT_TEMPLATE
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.version_compat import determine_kwargs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_evoimage.shapes import Manifest

#: Keys of the dict that the function may return: the fields of a request, and arguments of the task.
REQUEST_FIELDS = (
    *("prompt", "model", "size", "quality", "n"),
    *("image_urls", "callback_url", "extra_body", "variant"),
)
ARGUMENTS = ("name", "max_credits", "save_to", "labels")
#: What the function returned of the arguments, for the leg after the wait.
XCOM_ARGUMENTS = "evoimage_arguments"


class EvoImageDecoratedOperator(DecoratedOperator, EvoImageGenerateOperator):
    """Call a function for a prompt or request fields, then do what EvoImageGenerateOperator does.

    The function runs once in each try, before anything is submitted. A retry is the same request only if the
    function returns the same again. No template is rendered in its result.
    Arguments of the decorator are those of the operator; fields that the function returns win over them.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *EvoImageGenerateOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **EvoImageGenerateOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.evoimage"
    # Shows what the function returned among the rendered fields.
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("multiple_outputs", None)
        if "prompt" in kwargs:
            raise InvalidRequestError("@task.evoimage takes no prompt: the function returns it.")
        if kwargs.get("map_index_template") == DEFAULT_TEMPLATE:
            # Airflow reads it of the mapped task; one that is not mapped has no name beside its own.
            del kwargs["map_index_template"]
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            prompt="",
            **kwargs,
        )

    def execute(self, context: Context) -> Manifest:
        """Call the function, then submit or resume."""
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        returned = _request_fields(self.python_callable(*self.op_args, **arguments))
        own = {name: storable_argument(name, value) for name, value in returned.items() if name in ARGUMENTS}
        self._keep_arguments(context, own)
        self._take(returned | own)
        self.hide_secrets()
        return EvoImageGenerateOperator.execute(self, context)

    def _take(self, returned: Mapping[str, Any]) -> None:
        for name, value in returned.items():
            setattr(self, name, value)
        if "max_credits" in returned:
            # A limit that the function gives and that is None must not vanish.
            self.has_limit = True
        self.varies_by_item = frozenset(returned) & frozenset(ARGUMENTS)

    def _keep_arguments(self, context: Context, own: Mapping[str, Any]) -> None:
        """Keep what the function returned besides the request, before anything is paid.

        :raises EvoImageError: when Airflow does not store it; the images would then be saved elsewhere, or nowhere.
        """
        if not own:
            return
        try:
            context["ti"].xcom_push(key=XCOM_ARGUMENTS, value=own)
        except Exception as error:
            raise EvoImageError(
                f"Airflow did not store the XCom {XCOM_ARGUMENTS!r}: {error}",
                billed=False,
                on_retry="Nothing was submitted by this try; a retry tries again.",
            ) from error

    def execute_complete(
        self, context: Context, event: Any = None, credits_reserved: float | None = None
    ) -> Manifest:
        """Go on after the trigger's event, and show the function's result again."""
        self._show_request(context)
        return super().execute_complete(context, event, credits_reserved)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Show the function's result also when Airflow ended the deferral itself."""
        self._show_request(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def _show_request(self, context: Context) -> None:
        """Restore the fields that the task's page shows, as this leg has a new operator object."""
        from airflow_provider_evoimage.generation.run import kept_request

        ti = context["ti"]
        own = ti.xcom_pull(task_ids=ti.task_id, key=XCOM_ARGUMENTS, map_indexes=ti.map_index)
        if isinstance(own, Mapping):
            self._take({name: own[name] for name in ARGUMENTS if name in own})
        kept = kept_request(ti)
        request = (kept.request if kept is not None else None) or {}
        for name in ("prompt", "model", "size", "quality", "n"):
            if name in request:
                setattr(self, name, request[name])


def _request_fields(returned: object) -> dict[str, Any]:
    if isinstance(returned, str):
        return {"prompt": returned}
    if (
        isinstance(returned, Mapping)
        and "prompt" in returned
        and set(returned) <= {*REQUEST_FIELDS, *ARGUMENTS}
    ):
        return dict(returned)
    shown = (
        f"a dict with {', '.join(map(repr, returned))}"
        if isinstance(returned, Mapping)
        else repr(returned)[:120]
    )
    raise InvalidRequestError(
        f"A function under @task.evoimage must return a prompt, or a dict with 'prompt' and any of "
        f"{', '.join((*REQUEST_FIELDS[1:], *ARGUMENTS))}; it returned {shown}."
    )


def evoimage_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a function's return value the request of an image task; the task returns the manifest.

    :param python_callable: the function.
    :param kwargs: arguments of EvoImageGenerateOperator, without ``prompt``.
    """
    # The manifest is one value: a function annotated "-> dict" would make Airflow take it apart.
    kwargs["multiple_outputs"] = False
    kwargs.setdefault("map_index_template", DEFAULT_TEMPLATE)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=EvoImageDecoratedOperator, **kwargs
    )
