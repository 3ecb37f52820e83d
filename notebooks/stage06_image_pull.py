# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stage 6: the image
#
# An image is a list of layers, each an archive of files, and each has the hash of its content for a name.

# %%
import hashlib

from thinwalls.notebook import check

# %%
content = b"what the layer says\n"
print("sha256:" + hashlib.sha256(content).hexdigest())

# %% [markdown]
# Change one letter, and it is another name. Whoever knows the name can check the content, whoever brought it.

# %% [markdown]
# ## Task 6.1: Pull a layer, and run it
#
# Build `Repository.manifest`, `Repository.blob`, `Repository.get`, `Repository.download`, `pull`, `read_manifest`, `write_blob`, `unpack`, `Tree.locate`, `Tree.place`, then `./walls check 6.1`.

# %%
check("6.1")

# %% [markdown]
# ## Task 6.2: A token, and nobody else's password
#
# Build `Repository.authorize`, `parse_challenge`, then `./walls check 6.2`.

# %%
check("6.2")

# %% [markdown]
# ## Task 6.3: An index, and this machine's platform
#
# Build `choose`, then `./walls check 6.3`.

# %%
check("6.3")

# %% [markdown]
# ## Task 6.4: Verify, then store
#
# Build `verified`, `stored`, then `./walls check 6.4`.

# %%
check("6.4")

# %% [markdown]
# ## Task 6.5: Layer upon layer
#
# Build `Tree.whiteout`, `Tree.dress`, then `./walls check 6.5`.

# %%
check("6.5")

# %% [markdown]
# ## Task 6.6: Layers that mean harm
#
# Build `Tree.check`, then `./walls check 6.6`.

# %%
check("6.6")

# %% [markdown]
# ## Task 6.7: What the image says to run
#
# Build `read_image`, `program`, `find_user`, then `./walls check 6.7`.

# %%
check("6.7")

# %% [markdown]
# ## Task 6.8: Twice the same
#
# Build `Disposable.inside`, then `./walls check 6.8`.

# %%
check("6.8")

# %% [markdown]
# ## Task 6.9: Attack: other bytes for the same name
#
# Build `forge`, then `./walls check 6.9`.

# %%
check("6.9")

# %% [markdown]
# ## Task 6.10: Other owners, another user
#
# Build `Tree.own`, `User.inside`, then `./walls check 6.10`.

# %%
check("6.10")
