"""How fast is it, against onnxruntime alone and against the frameworks that people serve models with?"""
