"""Compares proto/open_inference.proto with the messages inside tritonclient.

Every message, field, enum value and method of ours that theirs has too must have the same number,
type and cardinality. Usage: wire_compatibility_test.py PROTOC PROJECT_ROOT
"""

import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

# Ours alone: the properties of KServe's message, which Triton's does not have.
ONLY_OURS = {".inference.ModelMetadataResponse.properties"}


def compiled(protoc, root):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(
            [protoc, f"-I{root}", f"--descriptor_set_out={out.name}", "proto/open_inference.proto"],
            cwd=root,
            check=True,
        )
        return list(descriptor_pb2.FileDescriptorSet.FromString(out.read()).file)


def of_modules(*modules):
    files = []
    for module in modules:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return files


def flat(files):
    """Full name -> what must agree, for every field, enum value and method."""
    found = {}

    def enums(scope, types):
        for enum in types:
            for value in enum.value:
                found[f"{scope}.{enum.name}.{value.name}"] = value.number

    def messages(scope, types):
        for message in types:
            name = f"{scope}.{message.name}"
            for field in message.field:
                oneof = None
                if field.HasField("oneof_index"):
                    oneof = message.oneof_decl[field.oneof_index].name
                kind = (field.number, field.type, field.label, field.type_name, oneof)
                found[f"{name}.{field.name}"] = kind
            enums(name, message.enum_type)
            messages(name, message.nested_type)

    for file in files:
        scope = f".{file.package}"
        enums(scope, file.enum_type)
        messages(scope, file.message_type)
        for service in file.service:
            for method in service.method:
                found[f"{scope}.{service.name}.{method.name}"] = (
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


def main():
    ours = flat(compiled(sys.argv[1], sys.argv[2]))
    theirs = flat(of_modules(service_pb2, model_config_pb2))
    wrong = [
        f"{name}: ours {kind}, theirs {theirs.get(name)}"
        for name, kind in ours.items()
        if theirs.get(name) != kind
        and not any(name == known or name.startswith(_entry(known)) for known in ONLY_OURS)
    ]
    print(f"{len(ours)} fields, values and methods compared, {len(wrong)} differ")
    print("\n".join(wrong))
    return 1 if wrong or len(ours) < 100 else 0


def _entry(field):
    """The message behind a map field: .a.B.properties -> .a.B.PropertiesEntry."""
    scope, name = field.rsplit(".", 1)
    return f"{scope}.{name.capitalize()}Entry."


if __name__ == "__main__":
    sys.exit(main())
