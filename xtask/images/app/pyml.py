"""READY when a web request was answered by a model trained on the spot."""
import time

started = time.time()
import numpy as np
import pandas as pd
from flask import Flask
from sklearn.linear_model import LogisticRegression

random = np.random.default_rng(0)
frame = pd.DataFrame(random.normal(size=(2000, 8)), columns=list("abcdefgh"))
label = (frame.a + frame.b > 0).astype(int)
model = LogisticRegression().fit(frame, label)
app = Flask(__name__)


@app.get("/score")
def score():
    return {"score": float(model.score(frame, label)), "means": frame.groupby(label).mean().to_dict()}


answer = app.test_client().get("/score")
assert answer.status_code == 200 and answer.json["score"] > 0.9
print("READY pyml %.3f s" % (time.time() - started), flush=True)
