"""Models by name: cards, building, loading, predicting.

cards        look up the cards by name           (no torch)
card_file    the form of a card file             (no torch)
configure    give a model its solver and adjoint
values, sizes    checks of what a model folder asks for, before anything is built
restore      rebuild a model from its folder
trained      the record that a loaded model carries
factory      create_model: a model by name
pretrained   load: a trained model by name, folder, run or hub repository
finetune     transfer: start from trained weights
predict      classify pictures
generate     continue a text
convert      a model folder from a released checkpoint
readme       the README of an exported folder
"""
