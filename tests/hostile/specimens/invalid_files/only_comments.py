# train.py
# soon
