"""``@task.evoimage``: a function returns a prompt or request fields, and its task makes the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.definitions.context import context_merge

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.version_compat import determine_kwargs

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_evoimage.manifest import Manifest

#: Allowed keys of the dict that the function may return.
REQUEST_FIELDS = (
    *("prompt", "model", "size", "quality", "n"),
    *("image_urls", "callback_url", "extra_body", "variant"),
)


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
        for name, value in _request_fields(self.python_callable(*self.op_args, **arguments)).items():
            setattr(self, name, value)
        return EvoImageGenerateOperator.execute(self, context)

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

        kept = kept_request(context["ti"])
        request = (kept.request if kept is not None else None) or {}
        for name in ("prompt", "model", "size", "quality", "n"):
            if name in request:
                setattr(self, name, request[name])


def _request_fields(returned: object) -> dict[str, Any]:
    if isinstance(returned, str):
        return {"prompt": returned}
    if isinstance(returned, Mapping) and "prompt" in returned and set(returned) <= set(REQUEST_FIELDS):
        return dict(returned)
    shown = (
        f"a dict with {', '.join(map(repr, returned))}"
        if isinstance(returned, Mapping)
        else repr(returned)[:120]
    )
    raise InvalidRequestError(
        f"A function under @task.evoimage must return a prompt, or a dict with 'prompt' and any of "
        f"{', '.join(REQUEST_FIELDS[1:])}; it returned {shown}."
    )


def evoimage_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a function's return value the request of an image task; the task returns the manifest.

    :param python_callable: the function.
    :param kwargs: arguments of EvoImageGenerateOperator, without ``prompt``.
    """
    # The manifest is one value: a function annotated "-> dict" would make Airflow take it apart.
    kwargs["multiple_outputs"] = False
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=EvoImageDecoratedOperator, **kwargs
    )
