from tests.model_files.descriptions import make_functional, make_layer

FOREIGN = {"module": "mine", "class_name": "Mine", "registered_name": "mine>Mine", "config": {}}


def add_call(layer, **keywords):
    return layer | {"inbound_nodes": [layer["inbound_nodes"][0] | {"kwargs": keywords}]}


def make_random(class_name="Dropout", **keywords):
    return add_call(make_layer(class_name, "drop", "conv"), **keywords)


def make_chain(middle):
    return make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("Conv2D", "conv", "image", filters=4),
            middle,
            make_layer("GlobalMaxPooling2D", "gather", middle["name"]),
            make_layer("Dense", "answer", "gather", units=5),
        ]
    )


def nest(inner, **keywords):
    return add_call(inner | make_layer("Functional", "inner", "conv") | inner, **keywords)
