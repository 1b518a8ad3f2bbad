"""Writes golden.npz: what the published packages themselves compute, for test_models.py.

    pip install tensorflow-cpu==2.21.0 tf-keras librosa onnxruntime requests
    pip install --no-deps musicnn==0.1.0 speechmos==0.0.1.1
    TF_USE_LEGACY_KERAS=1 python make_golden.py

In an environment of its own: songkit needs none of it.
"""

import os

import librosa
import musicnn
import numpy as np
import tensorflow as tf
from musicnn import models
from speechmos import dnsmos

noise = np.random.default_rng(3).standard_normal(64000).astype(np.float32) * 0.1
times = np.arange(12 * 16000) / 16000
tones = (0.2 * np.sin(2 * np.pi * 220 * times) * (np.sin(2 * np.pi * times) > 0)).astype(np.float32)
patches = (np.abs(np.random.default_rng(0).standard_normal((2, 187, 96))) * 2).astype(np.float32)

golden = {
    "mel": librosa.feature.melspectrogram(y=noise, sr=16000, hop_length=256, n_fft=512, n_mels=96).T[::10],
    "mel_odd": librosa.feature.melspectrogram(y=noise, sr=16000, hop_length=160, n_fft=321, n_mels=120).T[::10],
}
tf.compat.v1.disable_eager_execution()
for model in ("MSD_musicnn", "MTT_musicnn"):
    tf.compat.v1.reset_default_graph()
    with tf.name_scope("model"):
        x = tf.compat.v1.placeholder(tf.float32, [None, 187, 96])
        training = tf.compat.v1.placeholder(tf.bool)
        logits, *_, penultimate = models.define_model(x, training, model, 50)
    session = tf.compat.v1.Session()
    tf.compat.v1.train.Saver().restore(session, f"{os.path.dirname(musicnn.__file__)}/{model}/")
    made = session.run([logits, penultimate], {x: patches, training: False})
    golden[f"{model}_logits"], golden[f"{model}_penultimate"] = made
found = dnsmos.run(tones, 16000)
golden["dnsmos"] = np.array([found[name] for name in ("sig_mos", "bak_mos", "ovrl_mos", "p808_mos")])
np.savez_compressed("golden.npz", **golden)
