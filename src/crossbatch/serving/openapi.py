"""The API in OpenAPI's words (3.1), for programs, and for the test that compares the two."""

from typing import Any

import crossbatch
from crossbatch.serving.limits import Limits
from crossbatch.serving.refusals import REASONS
from crossbatch.serving.uploads import EXPAND, LARGEST_ID, K

Json = dict[str, Any]
_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_SIZES: Json = {"type": "integer", "minimum": 32, "maximum": 1024, "default": 256}


def description(limits: Limits) -> Json:
    """The API of a server with these limits."""
    number = {"name": "id", "in": "path", "required": True, "schema": _id()}
    size = {"name": "size", "in": "query", "schema": _SIZES, "description": "Longer side, pixels."}
    image = {"200": _image(), "304": {"description": "The client has it already."}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "crossbatch serve",
            "version": crossbatch.__version__,
            "description": "The pictures of an index that are most like a picture.",
        },
        "paths": {
            "/search": {"post": _search(limits)},
            "/items/{id}": {
                "parameters": [number],
                "get": _get("item", "What is known of an item", _json("Item"), *_ITEM),
            },
            "/items/{id}/image": {
                "parameters": [number],
                "get": {
                    **_get("image", "A small picture of an item", image, *_ITEM, "image_gone"),
                    "parameters": [size],
                },
            },
            "/health": {
                "get": _get(
                    "health", "Whether there is an index", _json("Health"), "bad_parameter"
                )
            },
            "/openapi.json": {
                "get": {
                    **_get("openapi", "This description", _free(), "bad_parameter"),
                    "security": [],
                }
            },
        },
        "security": [{"token": []}, {}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


_ITEM = ("no_such_item", "bad_parameter", "index_unavailable")
_ALWAYS = ("unauthorized", "cross_site", "wrong_host", "busy", "timed_out")
_SEARCH = (
    *("no_such_item", "image_gone", "too_slow", "upload_too_large", "not_multipart"),
    *("not_an_image", "empty_image", "broken_image", "too_many_pixels", "bad_form"),
    *("bad_parameter", "bad_filter", "index_unavailable"),
)


def _search(limits: Limits) -> Json:
    crop = "Left, top, width and height as shares of the upright picture: 0.1,0.2,0.5,0.5."
    rerank = "Order the 200 nearest anew by mutual neighbours: k1,k2,lambda. Paper: 20,6,0.3."
    expand = "Move the query towards so many of its nearest, and ask again."
    fields: Json = {
        "image": {
            "type": "array",
            "minItems": 1,
            "maxItems": limits.pictures,
            "items": {"type": "string", "format": "binary"},
            "description": "Pictures of one thing: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.",
        },
        "item": {**_id(), "description": "Search for what is like this item."},
        "k": {"type": "integer", "minimum": 1, "maximum": limits.k, "default": min(K, limits.k)},
        "where": {**_TEXT, "maxLength": 10_000, "description": "Such as label = 'shoe'."},
        "crop": {**_TEXT, "description": crop, "examples": ["0.1,0.2,0.5,0.5"]},
        "expand": {**_WHOLE, "maximum": EXPAND, "default": 0, "description": expand},
        "rerank": {**_TEXT, "description": rerank, "examples": ["20,6,0.3"]},
    }
    form = {
        "type": "object",
        "properties": fields,
        "additionalProperties": False,
        "oneOf": [{"required": ["image"]}, {"required": ["item"]}],
    }
    found = _get("search", "The items most like a picture", _json("Found"), *_SEARCH)
    found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return found


def _get(name: str, summary: str, answers: Json, *refusals: str) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": answers | _refusals(*refusals, *_ALWAYS),
    }


def _refusals(*codes: str) -> Json:
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(REASONS[code].status), []).append(code)
    return {
        status: {
            "description": " ".join(f"`{code}`: {REASONS[code].meaning}" for code in several),
            "content": {"application/json": {"schema": _error(several)}},
        }
        for status, several in by_status.items()
    }


def _error(codes: list[str]) -> Json:
    error = _object(code={"enum": codes}, message=_TEXT)
    return _object(error=error)


def _schemas() -> Json:
    item: Json = {
        "id": _id(),
        "label": {**_TEXT, "description": "Empty where there is none."},
        "path": {**_TEXT, "description": "Relative; where it starts is not told."},
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    }
    similarity = {
        **{"type": "number", "minimum": -1.001, "maximum": 1.001},
        "description": "Cosine; with `rerank`, lambda times it and the rest mutual neighbours.",
    }
    limits = ("upload_bytes", "pixels", "pictures", "k")
    return {
        "Item": _object(**item),
        "Hit": _object(similarity=similarity, **item),
        "Found": _object(
            hits={"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
            items={**_WHOLE, "description": "Of the whole index."},
        ),
        "Health": _object(
            status={"const": "ok"},
            crossbatch=_TEXT,
            name=_TEXT,
            items=_WHOLE,
            version={**_TEXT, "description": "Another whenever the index is."},
            model={**_TEXT, "description": "Digest of the encoder."},
            columns={
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "What a condition may name, and its type.",
            },
            examples={"type": "array", "items": _id()},
            limits=_object(**dict.fromkeys(limits, _WHOLE)),
        ),
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _json(name: str) -> Json:
    return _answer({"$ref": f"#/components/schemas/{name}"}, name)


def _free() -> Json:
    return _answer({"type": "object"}, "OpenAPI 3.1")


def _answer(schema: Json, about: str) -> Json:
    return {"200": {"description": about, "content": {"application/json": {"schema": schema}}}}


def _image() -> Json:
    return {
        "description": "A WebP",
        "headers": {"ETag": {"schema": _TEXT}},
        "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
    }


def _id() -> Json:
    return {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}
