"""Every use of NVIDIA's library in our own source, found by its types.

Sources annotate what is NVIDIA's: `trt: TensorRT` is the module, `nv.X` a class. From there types
follow assignments, loops and calls, with the return types that the bindings' documentation names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tests.nvidia_bindings import Api

How: TypeAlias = Literal["read", "write", "call", "hasattr", "override"]

MODULE = "<module>"
# our own names for what only TensorRT-RTX has
RTX_TYPES = {"TensorRTRtx": MODULE, "RtxConfig": "IBuilderConfig"}


@dataclass(frozen=True)
class Use:
    """One use of a name of NVIDIA's.

    Attributes:
        owner: Class whose member it is; empty for the module's own.
        name: The member.
        how: What is done with it.
        num_positional: Arguments of a call by position; of an override, all it takes.
        keywords: Arguments by name; of an override, its arguments' names.
        rtx_only: Whether it is asked of TensorRT-RTX alone.
        where: `plan.py:120`.
    """

    owner: str
    name: str
    how: How
    num_positional: int = 0
    keywords: tuple[str, ...] = ()
    rtx_only: bool = False
    where: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Owner and name."""
        return self.owner, self.name

    def __str__(self) -> str:
        """`IBuilderConfig.set_flag (plan.py:120)`."""
        return f"{self.owner or 'module'}.{self.name} ({self.where})"


@dataclass(frozen=True)
class _Type:
    """What an expression is: a class of NVIDIA's or `MODULE`.

    Attributes:
        name: The class, or `MODULE`.
        is_class: The class itself, and not an object of it.
        many: Something that gives such objects one by one.
        rtx_only: Known to be TensorRT-RTX's.
    """

    name: str
    is_class: bool = False
    many: bool = False
    rtx_only: bool = False


@dataclass
class Uses:
    """What was found in some files.

    Attributes:
        found: All uses.
        unknown: Attributes of things whose type could not be followed: (name, where).
    """

    found: list[Use]
    unknown: list[tuple[str, str]]


def uses_in(paths: Iterable[Path], api: Api) -> Uses:
    """All uses in some files; `api` gives the types that calls return."""
    uses = Uses([], [])
    for path in paths:
        _File(path, api, uses).walk()
    return uses


class _File:
    def __init__(self, path: Path, api: Api, uses: Uses) -> None:
        self._name, self._api, self._uses = path.name, api, uses
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._functions: dict[str, _Type] = {}
        self._attributes: dict[str, _Type] = {}
        self._scope: dict[str, _Type] = {}
        self._modules = {"logger"}  # imported ones, and Python's logger

    def walk(self) -> None:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                self._modules |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.FunctionDef) and (made := self._annotated(node.returns)):
                self._functions[node.name] = made
            if isinstance(node, ast.AnnAssign) and (made := self._annotated(node.annotation)):
                # `self.x: …` in a method, or a dataclass's field
                target = node.target
                name = target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
                self._attributes[name] = made
        for statement in self._tree.body:
            self._visit(statement)

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef):
            self._visit_function(node)
        elif isinstance(node, ast.ClassDef):
            self._visit_class(node)
        elif isinstance(node, ast.Assign):
            self._assign(node.targets, node.value)
        elif isinstance(node, ast.AnnAssign):
            self._bind(node.target, self._annotated(node.annotation))
            if node.value is not None:
                self._infer(node.value)
        elif isinstance(node, ast.For):
            self._bind(node.target, _one(self._infer(node.iter)))
            for inner in [*node.body, *node.orelse]:
                self._visit(inner)
        elif isinstance(node, ast.expr):
            self._infer(node)
        else:
            for child in ast.iter_child_nodes(node):
                self._visit(child)

    def _visit_function(self, node: ast.FunctionDef) -> None:
        outer = dict(self._scope)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            self._bind(ast.Name(argument.arg), self._annotated(argument.annotation))
        for statement in node.body:
            self._visit(statement)
        self._scope = outer

    def _visit_class(self, node: ast.ClassDef) -> None:
        bases = [base for base in map(self._infer, node.bases) if base is not None]
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("__"):
                names = tuple(argument.arg for argument in statement.args.args[1:])
                for base in bases:
                    self._note(base, statement.name, "override", statement, len(names), names)
            self._visit(statement)

    def _assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        found = self._infer(value)
        for target in targets:
            if isinstance(target, ast.Attribute):
                owner = self._infer(target.value)
                if owner is not None and not owner.many:
                    self._note(owner, target.attr, "write", target)
                elif found is not None:
                    self._attributes.setdefault(target.attr, found)
            else:
                self._bind(target, found)

    def _bind(self, target: ast.expr, found: _Type | None) -> None:
        if isinstance(target, ast.Name):
            self._scope.pop(target.id, None)
            if found is not None:
                self._scope[target.id] = found

    def _infer(self, node: ast.expr) -> _Type | None:
        """Type of an expression, noting every use inside it."""
        if isinstance(node, ast.Name):
            return self._scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._infer_attribute(node)
        if isinstance(node, ast.Call):
            return self._infer_call(node)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            return self._infer_comprehension(node)
        if isinstance(node, ast.IfExp):
            found = [self._infer(part) for part in (node.test, node.body, node.orelse)]
            return found[1] or found[2]
        for child in _expressions(node):
            self._infer(child)
        return None

    def _infer_attribute(self, node: ast.Attribute) -> _Type | None:
        owner = self._infer(node.value)
        if owner is None or owner.many:
            if node.attr in self._attributes:
                return self._attributes[node.attr]
            if not (isinstance(node.value, ast.Name) and node.value.id in self._modules):
                self._uses.unknown.append((node.attr, self._where(node)))
            return None
        if owner.name == MODULE and node.attr.startswith("__"):
            return None
        self._note(owner, node.attr, "read", node)
        return self._type_of(owner, node.attr)

    def _type_of(self, owner: _Type, name: str) -> _Type | None:
        if owner.name == MODULE:
            return _Type(name, is_class=True, rtx_only=owner.rtx_only)
        returned = self._api.returns(owner.name, name)
        return None if returned not in self._api.classes else _Type(str(returned))

    def _infer_call(self, node: ast.Call) -> _Type | None:
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self._infer(argument)
        function = node.func
        if isinstance(function, ast.Name):
            return self._infer_named_call(function.id, node)
        if not isinstance(function, ast.Attribute):
            return None
        owner = self._infer(function.value)
        if owner is None or owner.many:
            return self._functions.get(function.attr) or self._infer_attribute(function)
        keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
        if owner.name == MODULE:  # a class is made into an object
            made = _Type(function.attr, rtx_only=owner.rtx_only)
            self._note(owner, function.attr, "read", node)
            self._note(made, "__init__", "call", node, len(node.args), keywords)
            return made
        # a method of the class itself takes `self` by position
        self._note(owner, function.attr, "call", node, len(node.args) - owner.is_class, keywords)
        return self._type_of(owner, function.attr)

    def _infer_named_call(self, name: str, node: ast.Call) -> _Type | None:
        if name == "cast":
            return self._annotated(node.args[0])
        if name in ("hasattr", "getattr"):
            owner, member = self._infer(node.args[0]), node.args[1]
            if owner is not None and isinstance(member, ast.Constant):
                self._note(owner, str(member.value), "hasattr", node)
        return self._functions.get(name)

    def _infer_comprehension(
        self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp
    ) -> _Type | None:
        outer = dict(self._scope)
        for part in node.generators:
            self._bind(part.target, _one(self._infer(part.iter)))
            for condition in part.ifs:
                self._infer(condition)
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        found = [self._infer(value) for value in values][-1]
        self._scope = outer
        return None if found is None else _Type(found.name, found.is_class, True, found.rtx_only)

    def _annotated(self, annotation: ast.expr | None) -> _Type | None:
        """The class of NVIDIA's that an annotation names."""
        if isinstance(annotation, ast.BinOp):
            return self._annotated(annotation.left) or self._annotated(annotation.right)
        if isinstance(annotation, ast.Name):
            if annotation.id == "TensorRT":
                return _Type(MODULE)
            if annotation.id in RTX_TYPES:
                return _Type(RTX_TYPES[annotation.id], rtx_only=True)
        if isinstance(annotation, ast.Attribute):
            text = ast.unparse(annotation)
            if text.startswith("nv."):
                return _Type(text.removeprefix("nv."))
        return None

    def _note(
        self,
        owner: _Type,
        name: str,
        how: How,
        node: ast.AST,
        num_positional: int = 0,
        keywords: tuple[str, ...] = (),
    ) -> None:
        held_by = "" if owner.name == MODULE else owner.name
        self._uses.found.append(
            Use(held_by, name, how, num_positional, keywords, owner.rtx_only, self._where(node))
        )

    def _where(self, node: ast.AST) -> str:
        return f"{self._name}:{getattr(node, 'lineno', 0)}"


def _one(found: _Type | None) -> _Type | None:
    """What a loop over it gives."""
    return _Type(found.name, found.is_class) if found is not None and found.many else None


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        else:
            yield from _expressions(child)
