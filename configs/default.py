"""Every field of a run, with its unit and its default. Other configs override a few of them.

Any field can be set on the command line, for example `--config.stages.head.epochs=20`.
"""

from ml_collections import ConfigDict


def stage() -> ConfigDict:
    """One stage of training; `config.stages.NAME` is such a block."""
    config = ConfigDict()
    # Passes over the training images; with 'lbfgs' the most iterations.
    config.epochs = 10
    # 'head': the classifier alone. 'all': every layer but the first `freeze_first`.
    config.trainable = "all"
    # Keras layers that stay frozen, activations counted, from the first one after the InputLayer;
    # only with 'all'. 10 freezes Conv1 to block_1_expand_BN: 37,664 parameters with the running
    # averages, the paper's number. Keras' own `base.layers[:10]` begins with the InputLayer and
    # freezes a layer less, 37,472 parameters: that is 9 here.
    config.freeze_first = 0
    # Augment again at every step instead of training on copies; the outputs of the frozen layers
    # can then not be computed once.
    config.online_augment = False
    # What BatchNorm of the trained layers normalises by: 'running' averages (pre-trained
    # networks) or the 'batch' (networks trained from random weights).
    config.batch_norm = "running"
    # 'adam', 'adamw' (both in Keras' form, as the paper was trained: its epsilon 1e-7 stands beside
    # the uncorrected root of the second moment) or 'sgd' (Nesterov momentum 0.9). 'lbfgs', for
    # trainable='head': L2-regularised logistic regression on the features of the frozen network,
    # fitted to convergence; of the fields below it uses `l2` alone.
    config.optimizer = "adam"
    # Learning rate at its highest.
    config.learning_rate = 1e-3
    # 'constant', 'cosine' or 'linear', after the warm-up.
    config.schedule = "constant"
    # Epochs of linear warm-up from 0; may be a fraction.
    config.warmup_epochs = 0.0
    # Last learning rate as a share of the highest; 'constant' does not use it.
    config.end_factor = 0.0
    # Decoupled weight decay of kernels, per unit of learning rate; 'adamw' and 'sgd' only.
    config.weight_decay = 0.0
    # Gradients are scaled down to this global norm; 0 leaves them.
    config.clip_norm = 0.0
    # 'lbfgs' only: strength of the L2 penalty on standardised features. Of several, the one that
    # does best in 5-fold cross-validation over the subjects of the training images.
    config.l2 = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    # Early stopping: epochs without a better validation metric before the stage ends; 0: never.
    config.patience = 0
    return config


# One list of every field, long as it is: whoever looks for a field reads it from top to bottom.
def get_config() -> ConfigDict:
    """The default: three classes, MobileNetV2 in two stages, split by subject."""
    config = ConfigDict()
    # Names the run's folder, `runs/NAME`, where no --workdir is given.
    config.name = "default"
    # Decides everything random: splits, augmentation, initial weights, order of the images.
    config.seed = 0
    # Which images the test metrics come from. 'holdout': one split. 'repeated': several. 'kfold': k
    # folds, each tested once. 'nested': k folds, within each of which others choose among
    # `cv.search`. 'loso': each subject is tested once (leave one subject out).
    # 'leave_one_site_out': each site (hospital, scanner), by a model of the others. 'auto':
    # 'kfold', 3 times, with fewer than 200 subjects, else 'holdout'. Where every stage is fitted to
    # convergence ('lbfgs'), 'kfold', 'loso' and 'repeated' end with a model of all images, which is
    # handed on.
    config.protocol = "holdout"
    config.cv = ConfigDict()
    # k of 'kfold' and 'nested'.
    config.cv.folds = 5
    # Hold-outs of 'repeated', and partitions into folds of 'kfold' and 'nested', each another; 0: 5
    # hold-outs, one partition.
    config.cv.repeats = 0
    # Folds of the training and validation images of each fold of 'nested'.
    config.cv.inner_folds = 3
    # What 'nested' chooses among: every combination of 'FIELD=VALUE,VALUE,...', by the mean of
    # `select.metric` over the inner folds.
    config.cv.search = ("stages.finetune.learning_rate=3e-5,1e-4,3e-4",)

    # Images and subjects have numbers (`image 0001`, in the order of their names) in all that the
    # run and its predictions write or log, and the folder of the images is named nowhere; only an
    # error that stops the run names the file to be fixed.
    config.private = False
    # For which patients the model is meant, and for which not, in a sentence or two; goes into
    # exported files and their page. Empty: they say that nothing is stated.
    config.intended_use = ""

    config.data = ConfigDict()
    # Folder of images: one folder per class, or a manifest.csv with file,label[,subject,split,
    # site]. Empty: the embedded synthetic set.
    config.data.path = ""
    # A set of tensorflow-datasets ('name' or 'name/config'), instead of a path.
    config.data.tfds = ""
    # Height and width in pixels that images are reduced to.
    config.data.image_size = 128
    # Classes in their order; () takes the sorted names of the labels.
    config.data.classes = ()
    # What the values of masks mean, from 0, such as ('background', 'tumour'); of the synthetic set
    # its tissues. A mask is a PNG of the image's size whose pixels are numbers of classes, and 255
    # where nothing is known: `name_mask.png` beside `name.jpg`, or the manifest's column `mask`.
    config.data.mask_classes = ()
    # Labels to be renamed, so that several become one class: 'early=ssc,late=ssc'.
    config.data.merge = ""
    # What the levels of a folder mean; '' finds out, and stops where that is in doubt. Words such
    # as 'class/patient', 'patient/class', 'class', 'split/class', 'split/class/patient' or
    # 'class/level/patient'; or a pattern whose last part is the file:
    # '{label}/{zoom}/{subject}/*', '{split}/{label}/*', '{label}/{subject}_*'.
    config.data.layout = ""
    # Columns of a table that have names of their own: 'file=FILE,label=DX,subject=LESION'; of
    # columns of 0 and 1 'label=A+B+C'.
    config.data.columns = ""
    # Read names of classes and of subjects as one that differ only in capitals, white space or the
    # Unicode form of accents; without this they stop the run.
    config.data.merge_spellings = False
    # What the same names of subjects in several class folders are: 'same' or 'different' subjects;
    # '' stops where numbers seem to start again in each class.
    config.data.shared_subjects = ""
    # Whether the classes are ordered (grades): adds the quadratic-weighted kappa, where
    # `classes` gives the order.
    config.data.ordered = True
    # What a subject counts as whose images have several labels: 'majority', what most of them have
    # (of equally many the later class); 'worst', the latest class of any; 'image', nothing: it is
    # left out of the figures per subject. The report says how many these are.
    config.data.subject_label = "majority"
    # What to do about images that cannot be read or are smaller than 8 pixels: 'few' leaves out up
    # to 1 % of the set, and log, record and report name them, and stops the run before it trains if
    # there are more; 'error' stops at any; 'skip' leaves out all of them.
    config.data.corrupt = "few"
    # Bits that the samples of 16-bit files use: 8, 10, 12, 14 or 16. 0: what the largest value of
    # the whole set needs, which is said and stored with the run.
    config.data.pixel_bits = 0
    # Which page of a file with several is read: 'first', 'middle', a number from 1, or 'channels',
    # where two or three grey pages are red, green and blue. '': what the file says; a file of
    # several grey pages that says nothing is refused.
    config.data.pages = ""
    # Micrometres per pixel that images are brought to where a manifest's column `mpp` gives theirs:
    # their central square is enlarged or reduced. 0: a set of several resolutions is refused.
    # -1: no image is changed.
    config.data.mpp = 0.0
    # 'direct' decodes the files at every start; 'array_record' keeps the decoded images in the
    # cache folder and reads them back from there.
    config.data.storage = "direct"
    # Images that take more than this, 20,000 at 128x128 pixels, are not held in memory: decoded
    # once, they are kept in the cache folder and read from there as they are needed. Augmented
    # copies that take more are computed each time they are needed.
    config.data.max_megabytes = 1000
    # Seed of images that are made before any split: the synthetic set, and copies by
    # `augment.counts_before_split`; -1 takes `config.seed`.
    config.data.seed = -1

    # The synthetic set: tiles by class, and subjects by class.
    config.data.synthetic = ConfigDict()
    config.data.synthetic.normal = 347
    config.data.synthetic.early = 141
    config.data.synthetic.late = 141
    config.data.synthetic.normal_subjects = 20
    config.data.synthetic.early_subjects = 10
    config.data.synthetic.late_subjects = 10

    config.split = ConfigDict()
    # 'subject': all images of a subject are in one split. 'image': as the paper did.
    config.split.by = "subject"
    # Shares of the images, as near as whole subjects allow. Where 'lbfgs' fits every stage `val` is
    # trained on: nothing needs it.
    config.split.train = 0.7
    config.split.val = 0.15
    config.split.test = 0.15
    # Exact images per class instead of shares, only by 'image': 'normal:834/103/104,...' for
    # train/val/test.
    config.split.counts = ""
    # Seed of the split; -1 takes `config.seed`. Folds of one partition need one split seed.
    config.split.seed = -1
    # k > 0: the test set is fold `fold` (from 0) of k, validation is cut from the rest.
    config.split.folds = 0
    config.split.fold = 0
    # The test set is this subject and no other; validation is cut from the rest. Empty: off.
    config.split.test_subject = ""
    # 'apart': no site is trained on and tested. 'mixed': sites make no difference. 'auto': apart in
    # folds by subject, where there are as many sites as folds and each class is at two or more.
    config.split.sites = "auto"
    # The test set is this site and no other; validation is cut from the rest. Empty: off.
    config.split.test_site = ""
    # k > 0: fold `outer_fold` of k is left out altogether, before all else; 'nested' uses it.
    config.split.outer_folds = 0
    config.split.outer_fold = 0

    # Before training the images are checked for leaks: copies of an image, or a subject, in two
    # splits, one image under two labels, and more (`sscjax.data.audit.checks`).
    config.audit = ConfigDict()
    # 'stop' refuses to train where something leaks; 'report' trains, and the report's first line
    # says so. A split by image always reports.
    config.audit.on_leakage = "stop"

    config.augment = ConfigDict()
    # Augmented copies of each training image, made after the split, for the stages that do not
    # augment online.
    config.augment.copies = 2
    # Images per class after augmentation, made BEFORE the split, as the paper did:
    # 'normal:1041,early:423'. Leaks copies across splits; empty: off.
    config.augment.counts_before_split = ""
    # Random horizontal and vertical flips.
    config.augment.flip = True
    # Random quarter turns.
    config.augment.rot90 = False
    # How far the amount of each stain may change (HED jitter): 0.3 multiplies its optical density
    # by 0.7 to 1.3. Networks otherwise learn the stain of a laboratory. 0: off.
    config.augment.stain = 0.0
    # Least side of the random crop, as a share of the image; the crop is enlarged back.
    config.augment.crop = 0.8

    config.model = ConfigDict()
    # 'mobilenet_v2', 'cnn', 'fd_unet', or 'mobilenet_unet', MobileNetV2 with an expanding path.
    config.model.name = "mobilenet_v2"
    # Width multiplier of MobileNetV2.
    config.model.alpha = 1.0
    # Logits; 0: one per class. 1: a sigmoid, for two classes. More than classes: some unused.
    config.model.outputs = 0
    # Share of the classifier's inputs dropped in training.
    config.model.dropout = 0.2
    # What the classifier of MobileNetV2 or a vision transformer reads: layers of the backbone, ()
    # the last one. Of MobileNetV2's it reads the mean of each channel over the image, of the
    # tokens behind a block ('block_11_add2') what model.vit_pooling says.
    config.model.feature_layers = ()
    # What the classifier of a vision transformer reads of the tokens: the class 'token', the 'mean'
    # of the patches, or both, 'token_and_mean'.
    config.model.vit_pooling = "token"
    # The CNN's channels of each block and units of each hidden dense layer.
    config.model.cnn_widths = (32, 64, 128, 256)
    config.model.cnn_dense = (128,)
    # The UNet's blocks: 'dense' (FD-UNet; Guan et al. 2020) or 'plain' (two 3x3 convolutions each).
    config.model.unet_block = "dense"
    # How often images are halved ('mobilenet_unet' always 5 times): their size must be divisible by
    # 2^depth.
    config.model.unet_depth = 3
    # Channels that the first block begins with, and those that each of its layers adds; both double
    # by level, and are 32 and 8 in the original. Plain blocks have as many as dense ones end with.
    config.model.unet_width = 16
    config.model.unet_growth = 4
    # Layers of a dense block.
    config.model.unet_layers = 4

    # Weights of the backbone: 'imagenet' (cache, else download), 'bundled' (the package's own,
    # trained on drawn textures; alpha 1.0), a path to a .h5, .weights.h5, .safetensors or .pth
    # file, or 'none' for random ones.
    config.pretrained = "imagenet"
    # What to do where 'imagenet' is not in the cache and cannot be downloaded: 'bundled' takes that
    # backbone and says so (where alpha is not 1.0, as 'random'); 'random' takes random weights,
    # trains BatchNorm on the batch and says so; 'error' stops.
    config.pretrained_fallback = "bundled"
    # What a network from random weights needs instead of what fine-tuning needs.
    config.scratch = ConfigDict()
    # The share of the old BatchNorm running averages kept at each step.
    config.scratch.momentum = 0.9
    # Learning rate of the stages that train every layer, where random weights stand in for
    # ImageNet's; with pretrained='none' the stages' own holds.
    config.scratch.learning_rate = 1e-3

    config.loss = ConfigDict()
    # Share of the target spread over all outputs.
    config.loss.label_smoothing = 0.0
    # 'balanced' weighs classes by the inverse of their training images; 'none'.
    config.loss.class_weights = "balanced"
    # Weight of the classes' loss; 0 trains the masks alone, and the predicted classes are random.
    config.loss.classification = 1.0
    # Weight of the masks' cross-entropy beside it; 0 trains without masks. Only 'fd_unet' and
    # 'mobilenet_unet' have a head for masks; images without one train the classifier alone.
    config.loss.segmentation = 0.0
    # Weight, within that, of the masks' soft Dice loss: it weighs small structures as much as
    # large ones, and is what is measured in the end.
    config.loss.dice = 0.0
    # What a pixel weighs in the cross-entropy: 'root' of the inverse of its class's share of the
    # training pixels, so that small structures are not drowned; 'none'.
    config.loss.mask_weights = "root"

    # Images per step.
    config.batch_size = 32
    # Images that go through the network at a time within a step, to stay in the processor's
    # cache; `batch_size` takes the whole batch. The last bits of a result depend on it. A run that
    # was killed for lack of memory can be resumed with a smaller number that divides the first.
    config.micro_batch = 8

    config.select = ConfigDict()
    # Validation metric that picks the best epoch of a stage: 'accuracy', 'balanced_accuracy',
    # 'macro_auroc' or 'log_loss', 'mean_dice' where masks are trained; 'none' takes the last epoch.
    config.select.metric = "balanced_accuracy"
    # The model that the run ends with: the 'best' stage by that metric, or the 'last'.
    config.select.stage = "best"

    # What is done with the probabilities of the finished network, for subjects and for images, each
    # by rules of its own that are chosen on held-out rows of that kind. A finished run whose block
    # has changed computes its metrics again without training. Choose before looking at the test
    # images.
    config.calibration = ConfigDict()
    # Divide the logits by one number, so that of those with 80 % about four in five are right, if
    # that lowers the log loss of held-out subjects by more than a standard error. False leaves the
    # probabilities as the network gives them.
    config.calibration.temperature = True
    # How a subject's images become one row of probabilities: by their 'mean', or by their
    # 'geometric' mean, which is that of the logits.
    config.calibration.aggregation = "mean"
    # Bins of confidence, at most; each holds at least some ten images.
    config.calibration.bins = 10
    # 'mass': bins of equally many images. 'width': equally wide ones, most of them nearly empty.
    config.calibration.binning = "mass"
    # Probability from which a row counts as any class but the first: 'youden' has the largest
    # sensitivity + specificity of the held-out rows, 'sensitivity' at least the sensitivity below.
    config.calibration.threshold = "youden"
    config.calibration.sensitivity = 0.95
    # Accuracy of the held-out rows that are classified; on the others the model abstains. A target:
    # the report says how likely new patients miss it.
    config.calibration.target_accuracy = 0.9
    # Share of new patients whose prediction set is to hold their class.
    config.calibration.set_level = 0.9
    # Share of images like the held-out images that are to be flagged as unlike the training images;
    # a target.
    config.calibration.outlier_rate = 0.05

    config.checkpoint = ConfigDict()
    # Least seconds between two checkpoints within a stage.
    config.checkpoint.every_seconds = 20.0
    # Newest checkpoints that are kept.
    config.checkpoint.keep = 2

    # The outputs of the frozen layers are computed once and kept in the cache folder, where stages,
    # folds and later runs with the same images, weights and augmentation find them.
    config.features = ConfigDict()
    # Up to this they are held in memory as well; larger ones are read from the file.
    config.features.max_megabytes = 1000
    # The most that all of them may take on disk; the longest unused go first. Features that are
    # larger than this, and than `max_megabytes`, are not computed ahead.
    config.features.disk_megabytes = 10000

    # Stages in the order in which they run, by name; 'head' and 'finetune' are defined below.
    config.stage_order = ("head", "finetune")
    config.stages = ConfigDict()
    config.stages.head = stage()
    config.stages.head.trainable = "head"
    config.stages.head.epochs = 200
    config.stages.head.learning_rate = 1e-4
    config.stages.finetune = stage()
    config.stages.finetune.epochs = 16
    config.stages.finetune.freeze_first = 10
    config.stages.finetune.online_augment = True
    config.stages.finetune.learning_rate = 1e-4
    # The falling rate lets the last epochs settle; early stopping would cut just these.
    config.stages.finetune.schedule = "cosine"
    config.stages.finetune.warmup_epochs = 1.0
    return config


def as_cnn(config: ConfigDict, name: str, epochs: int) -> ConfigDict:
    """The same run with the CNN from random weights, in one stage that trains everything."""
    config.model.name = "cnn"
    return _from_scratch(config, name, epochs)


def as_unet(config: ConfigDict, name: str, epochs: int) -> ConfigDict:
    """The same run with the FD-UNet, likewise, at a size that a laptop trains in minutes."""
    config.model.name = "fd_unet"
    config.model.unet_width = 8
    config.model.unet_growth = 2
    config.data.image_size = 64
    config = _from_scratch(config, name, epochs)
    # The only stage augments online.
    config.augment.copies = 0
    config.stages.train.online_augment = True
    # Small batches, for the sake of more steps: what it learns of small structures comes late.
    config.batch_size = 8
    config.stages.train.learning_rate = 2e-3
    config.stages.train.schedule = "cosine"
    config.stages.train.warmup_epochs = 1.0
    # From random weights a network learns the stain of those few subjects it has seen.
    config.augment.rot90 = True
    config.augment.stain = 0.3
    return config


def _from_scratch(config: ConfigDict, name: str, epochs: int) -> ConfigDict:
    """From random weights, in one stage that trains everything."""
    config.name = name
    config.pretrained = "none"
    config.stage_order = ("train",)
    del config.stages.head, config.stages.finetune
    config.stages.train = stage()
    config.stages.train.epochs = epochs
    config.stages.train.learning_rate = 3e-4
    config.cv.search = ("stages.train.learning_rate=1e-4,3e-4,1e-3",)
    return config
