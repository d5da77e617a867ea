"""The same service as small servers of other frameworks, each as its own documentation advises.

Every one runs in an environment of its own that holds the framework, numpy, onnxruntime and orjson: nothing
here imports the project's packages. `environments` names them and makes the environments.
"""
